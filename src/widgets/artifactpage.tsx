/**
 * The page of an artifact.
 */

import { MainAreaWidget } from '@jupyterlab/apputils';
import { LabIcon, ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IArtifactName } from '../api/client';
import { ArtifactView } from '../components/artifact';
import { Line, Problem } from '../components/shared';
import type { ArtifactModel } from '../model/artifact';
import type { IContents } from '../model/contents';
import type { Renderers } from './rendered';

export interface IArtifactPageOptions {
  readonly model: ArtifactModel;
  readonly icon: LabIcon;
  readonly renderers: Renderers;
  readonly contents: IContents;
  readonly onOpenRun: (run: string, execution: string | null, path: string | null) => void;
  readonly onOpenArtifact: (artifact: IArtifactName, path: string | null) => void;
}

export class ArtifactPage extends MainAreaWidget<ReactWidget> {
  constructor(options: IArtifactPageOptions) {
    const { model } = options;
    const content = ReactWidget.create(
      <UseSignal signal={model.changed} initialSender={model}>
        {() => <ArtifactPageBody {...options} />}
      </UseSignal>
    );
    content.addClass('jp-mlb-RunPage');
    super({ content });
    const { digest, execution, run, name } = model.artifact;
    this.model = model;
    this.id = `mlbench-artifact-${digest}-${execution ?? run ?? ''}-${name ?? ''}`;
    this.title.label = name ?? 'Artifact';
    this.title.caption = digest;
    this.title.icon = options.icon;
    this.title.closable = true;
    this.toolbar.hide();
    model.changed.connect(this._name, this);
  }

  readonly model: ArtifactModel;

  override dispose(): void {
    this.model.dispose();
    super.dispose();
  }

  private _name(): void {
    this.title.label = this.model.value?.name ?? this.title.label;
  }
}

function ArtifactPageBody(options: IArtifactPageOptions): JSX.Element {
  const { model, renderers } = options;
  const { lineage, value, error } = model;
  if (!lineage || !value) {
    return error ? (
      <Problem sentence={error} onRetry={() => void model.refresh()} />
    ) : (
      <Line>Asking where it comes from …</Line>
    );
  }
  return (
    <>
      {error && <Problem sentence={error} onRetry={() => void model.refresh()} />}
      <ArtifactView
        lineage={lineage}
        value={value}
        maker={model.maker}
        shown={model.shown}
        isLogged={model.isLogged}
        run={model.run}
        contents={options.contents}
        outputs={renderers.outputs}
        code={renderers.code}
        onLook={at => model.look(at)}
        onOpenRun={(run, execution) => options.onOpenRun(run, execution, model.path)}
        onOpenArtifact={({ digest, execution, name }) => {
          if (digest !== null) {
            options.onOpenArtifact({ digest, execution, name }, model.path);
          }
        }}
      />
    </>
  );
}
