/**
 * The page that compares two runs.
 */

import { MainAreaWidget } from '@jupyterlab/apputils';
import { LabIcon, ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import type { IArtifactName } from '../api/client';
import { DifferenceView } from '../components/difference';
import { Line, Problem } from '../components/shared';
import type { ComparisonModel } from '../model/comparison';

export interface IComparePageOptions {
  readonly model: ComparisonModel;
  readonly icon: LabIcon;
  readonly onOpenRun: (run: string, path: string | null) => void;
  readonly onOpenArtifact: (artifact: IArtifactName, path: string | null) => void;
}

export class ComparePage extends MainAreaWidget<ReactWidget> {
  constructor(options: IComparePageOptions) {
    const { model } = options;
    const content = ReactWidget.create(
      <UseSignal signal={model.changed} initialSender={model}>
        {() => <ComparePageBody {...options} />}
      </UseSignal>
    );
    content.addClass('jp-mlb-RunPage');
    super({ content });
    this.model = model;
    this.id = `mlbench-compare-${model.run}-${model.other}`;
    this.title.label = 'Compare';
    this.title.caption = 'What differs between two runs';
    this.title.icon = options.icon;
    this.title.closable = true;
    this.toolbar.hide();
    model.changed.connect(this._name, this);
  }

  readonly model: ComparisonModel;

  protected override onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this.model.isInSight = true;
  }

  protected override onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    this.model.isInSight = false;
  }

  override dispose(): void {
    this.model.dispose();
    super.dispose();
  }

  private _name(): void {
    const { compared } = this.model;
    if (compared) {
      const [before, after] = [compared.before, compared.after].map(each =>
        each.run.id.slice(0, 4)
      );
      this.title.label = `${before} ↔ ${after}`;
    }
  }
}

function ComparePageBody(options: IComparePageOptions): JSX.Element {
  const { model } = options;
  const { compared, error } = model;
  if (!compared) {
    return error ? (
      <Problem sentence={error} onRetry={() => model.refresh()} />
    ) : (
      <Line>Comparing the two runs …</Line>
    );
  }
  return (
    <>
      {error && <Problem sentence={error} onRetry={() => model.refresh()} />}
      <DifferenceView
        {...compared}
        layout={model.layout}
        onLayout={layout => (model.layout = layout)}
        onOpenRun={run => options.onOpenRun(run, model.path)}
        onOpenArtifact={artifact => options.onOpenArtifact(artifact, model.path)}
      />
    </>
  );
}
