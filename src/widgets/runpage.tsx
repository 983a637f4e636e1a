/**
 * The page of a run.
 */

import { MainAreaWidget } from '@jupyterlab/apputils';
import { LabIcon, ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import type { IArtifactName } from '../api/client';
import { ArtifactList, countArtifacts } from '../components/artifactlist';
import { ExecutionView } from '../components/execution';
import { NotebookRead } from '../components/notebookview';
import { RunHead, StepsTable, Tabs } from '../components/runpage';
import { Line, Problem } from '../components/shared';
import type { IRunDetail } from '../api/schema';
import type { IContents } from '../model/contents';
import type { RunModel } from '../model/run';
import type { Renderers } from './rendered';

export interface IRunPageOptions {
  readonly model: RunModel;
  readonly icon: LabIcon;
  readonly renderers: Renderers;
  readonly contents: IContents;
  readonly onGoToCell: (path: string, cell: string) => void;
  readonly onCancelExecution: (execution: string) => Promise<void>;
  readonly onOpenRun: (run: string, path: string | null) => void;
  readonly onOpenArtifact: (artifact: IArtifactName, path: string | null) => void;
  /** Show what differs between a run and an earlier one. */
  readonly onCompare: (run: string, earlier: string, path: string | null) => void;
  /** Show what a run can be compared with, at a place of the page. */
  readonly onCompareMenu: (run: string, path: string | null, x: number, y: number) => void;
  /** Resume a failed run from a step; null says of a run that it cannot be. */
  readonly resume: (detail: IRunDetail) => IResume | null;
}

/** The step that a resumed run begins with, and what resumes it. */
export interface IResume {
  readonly step: string;
  readonly start: () => Promise<void>;
}

export class RunPage extends MainAreaWidget<ReactWidget> {
  constructor(options: IRunPageOptions) {
    const { model } = options;
    const content = ReactWidget.create(
      <UseSignal signal={model.changed} initialSender={model}>
        {() => <RunPageBody {...options} />}
      </UseSignal>
    );
    content.addClass('jp-mlb-RunPage');
    super({ content });
    this.model = model;
    this.id = `mlbench-run-${model.id}`;
    this.title.label = `run ${model.id.slice(0, 4)}`;
    this.title.caption = `mlbench run ${model.id}`;
    this.title.icon = options.icon;
    this.title.closable = true;
    this.toolbar.hide();
  }

  readonly model: RunModel;

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
}

function RunPageBody(options: IRunPageOptions): JSX.Element {
  const { model, renderers } = options;
  const { detail, error, selected } = model;
  const [isResuming, setResuming] = React.useState(false);
  if (!detail) {
    return error ? (
      <Problem sentence={error} onRetry={() => model.refresh()} />
    ) : (
      <Line>Asking for the run …</Line>
    );
  }
  const { path } = detail;
  const resume = options.resume(detail);
  const openRun = (run: string) => options.onOpenRun(run, model.path);
  return (
    <>
      {error && <Problem sentence={error} onRetry={() => model.refresh()} />}
      <RunHead
        detail={detail}
        onCancel={() => void model.cancel()}
        resumesFrom={resume?.step ?? null}
        isResuming={isResuming}
        onResume={() => {
          setResuming(true);
          void resume?.start().finally(() => setResuming(false));
        }}
        onOpenRun={openRun}
        sinceSuccess={model.sinceSuccess}
        onCompare={earlier => options.onCompare(model.id, earlier, model.path)}
        onCompareMenu={(x, y) => options.onCompareMenu(model.id, model.path, x, y)}
      />
      <Tabs
        tab={model.tab}
        artifacts={countArtifacts(detail) + model.loggedByItems}
        onTab={tab => (model.tab = tab)}
      />
      {model.tab === 'artifacts' ? (
        <div className="jp-mlb-RunPage-artifacts">
          <ArtifactList
            detail={detail}
            contents={options.contents}
            outputs={renderers.outputs}
            onChoose={execution => {
              model.choose(execution);
              model.tab = 'steps';
            }}
            logged={execution => model.logged(execution)}
            onMoreLogged={execution => model.showMoreLogged(execution)}
            onChooseItem={(execution, item) => {
              void model.chooseItem(execution, item);
              model.tab = 'steps';
            }}
            onOpenArtifact={artifact => options.onOpenArtifact(artifact, model.path)}
          />
        </div>
      ) : model.tab === 'steps' ? (
        <div className="jp-mlb-RunPage-split">
          <div className="jp-mlb-RunPage-steps">
            {detail.executions.length ? (
              <StepsTable
                detail={detail}
                chosen={model.chosen}
                onChoose={execution => model.choose(execution)}
                fold={execution => model.fold(execution)}
                restOf={execution => model.restOf(execution)}
                onMoreItems={execution => void model.showMoreItems(execution)}
                reusedFrom={execution => model.reusedFrom(execution)}
                onOpenRun={openRun}
              />
            ) : (
              <Line>
                This run has no steps: a cell that begins with <code>%%step NAME</code> is one. What
                its cells printed is on the tab Notebook.
              </Line>
            )}
            {detail.run.failure && !detail.executions.some(each => each.state === 'failed') && (
              <div className="jp-mlb-RunPage-failure">
                {renderers.outputs('run-failure', [
                  {
                    output_type: 'error',
                    ename: detail.run.failure.ename,
                    evalue: detail.run.failure.evalue,
                    traceback: detail.run.failure.traceback.length
                      ? [...detail.run.failure.traceback]
                      : [`${detail.run.failure.ename}: ${detail.run.failure.evalue}`]
                  }
                ])}
                {detail.run.failure.remedy && <p>{detail.run.failure.remedy}</p>}
              </div>
            )}
          </div>
          {selected && (
            <div className="jp-mlb-RunPage-side">
              <ExecutionView
                key={selected.id}
                execution={selected}
                outputs={renderers.outputs}
                contents={options.contents}
                onCancel={() => void options.onCancelExecution(selected.id)}
                reusedFrom={model.reusedFrom(selected)}
                onOpenRun={openRun}
                onChoose={execution => model.choose(execution)}
                onOpenArtifact={artifact => options.onOpenArtifact(artifact, model.path)}
                onGoToCell={
                  path && selected.cell
                    ? () => options.onGoToCell(path, selected.cell as string)
                    : null
                }
              />
            </div>
          )}
        </div>
      ) : (
        <div className="jp-mlb-RunPage-notebook">
          {model.notebook ? (
            <NotebookRead
              view={model.notebook}
              outputs={renderers.outputs}
              markdown={renderers.markdown}
              code={renderers.code}
            />
          ) : model.notebookError ? (
            <Problem sentence={model.notebookError} onRetry={() => void model.showNotebook(true)} />
          ) : (
            <Line>Asking for the notebook …</Line>
          )}
        </div>
      )}
    </>
  );
}
