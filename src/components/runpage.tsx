/**
 * A run's page: what happened in the head, its steps with their times, and the details of one of them.
 */

import * as React from 'react';

import type { IExecution, IRunDetail } from '../api/schema';
import { clock, duration, exact, millis, moment, size } from '../model/format';
import { layOut } from '../model/lanes';
import type { RunTab } from '../model/run';
import { LaneRow } from './lanes';
import { runName } from './runlist';
import { moveFocus, useNow } from './shared';
import { StateIcon } from './stateicon';
import { remark, timeOf } from './steplist';

const ROW = 26;

export interface IRunHeadProps {
  readonly detail: IRunDetail;
  readonly onCancel: () => void;
}

export function RunHead({ detail, onCancel }: IRunHeadProps): JSX.Element {
  const { run } = detail;
  const isLive = run.ended === null && (run.state === 'running' || run.state === 'queued');
  const now = useNow(isLive);
  const started = millis(run.started);
  const parameters = Object.entries(run.parameters);
  return (
    <header className="jp-mlb-RunHead">
      <div className="jp-mlb-RunHead-title">
        <StateIcon state={run.state} size={20} />
        <h1>{runName(detail)}</h1>
        <span className="jp-mlb-RunHead-state">
          {run.state}
          {run.reason ? ` (${run.reason})` : ''}
        </span>
        <code title={run.id}>{run.id.slice(0, 4)}</code>
        {isLive && (
          <button type="button" className="jp-mlb-Button" onClick={onCancel}>
            Cancel
          </button>
        )}
      </div>
      <dl className="jp-mlb-RunHead-facts">
        <Fact name="Started">
          <span title={exact(started)}>{moment(started)}</span>
        </Fact>
        <Fact name={isLive ? 'Running for' : 'Took'}>
          {run.ended === null ? clock(now - started) : duration(millis(run.ended - run.started))}
        </Fact>
        <Fact name="By">{startedBy(detail)}</Fact>
        {parameters.length > 0 && (
          <Fact name="Parameters">
            {parameters.map(([name, value]) => (
              <span className="jp-mlb-RunHead-parameter" key={name}>
                <code>{name}</code> {typeof value === 'string' ? value : JSON.stringify(value)}
              </span>
            ))}
          </Fact>
        )}
        {detail.code && <Fact name="Code">{detail.code}</Fact>}
        {run.notebook && (
          <Fact name="Notebook">
            <span title={run.notebook}>{detail.path ?? run.notebook}</span>
          </Fact>
        )}
      </dl>
    </header>
  );
}

function Fact(props: { readonly name: string; readonly children: React.ReactNode }): JSX.Element {
  return (
    <div>
      <dt>{props.name}</dt>
      <dd>{props.children}</dd>
    </div>
  );
}

function startedBy({ run, job }: IRunDetail): string {
  const user = run.user ?? 'somebody';
  switch (run.kind) {
    case 'interactive':
      return `${user}, in a notebook`;
    case 'papermill':
      return `${user}, with papermill`;
    case 'job':
      return `job ${job ?? 'that is gone'}, ${run.due === null ? 'on demand' : 'schedule'}`;
  }
}

export interface ITabsProps {
  readonly tab: RunTab;
  readonly onTab: (tab: RunTab) => void;
}

const TABS: ReadonlyArray<readonly [RunTab, string]> = [
  ['steps', 'Steps'],
  ['notebook', 'Notebook']
];

export function Tabs({ tab, onTab }: ITabsProps): JSX.Element {
  return (
    <div
      className="jp-mlb-Tabs"
      role="tablist"
      onKeyDown={event => {
        if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') {
          onTab(tab === 'steps' ? 'notebook' : 'steps');
        }
      }}
    >
      {TABS.map(([name, label]) => (
        <button
          key={name}
          type="button"
          role="tab"
          aria-selected={tab === name}
          tabIndex={tab === name ? 0 : -1}
          className="jp-mlb-Tabs-tab"
          onClick={() => onTab(name)}
        >
          {label}
        </button>
      ))}
    </div>
  );
}

export interface IStepsTableProps {
  readonly detail: IRunDetail;
  readonly chosen: string | null;
  readonly onChoose: (execution: string) => void;
}

export function StepsTable({ detail, chosen, onChoose }: IStepsTableProps): JSX.Element {
  const { executions, edges, run } = detail;
  const isLive = executions.some(each => each.ended === null);
  const now = useNow(isLive);
  const layout = React.useMemo(
    () =>
      layOut(
        executions.map(({ step }) => ({
          name: step,
          parents: edges.filter(edge => edge.child === step).map(edge => edge.parent)
        }))
      ),
    [executions, edges]
  );
  const start = Math.min(run.started, ...executions.map(each => each.queued ?? run.started));
  const end = Math.max(
    start + 1,
    ...executions.map(each => each.ended ?? 0),
    isLive ? now * 1e6 : (run.ended ?? 0)
  );
  return (
    <table className="jp-mlb-StepsTable" onKeyDown={event => onRowKey(event, onChoose)}>
      <thead>
        <tr>
          <th scope="col">step</th>
          <th scope="col" className="jp-mlb-StepsTable-scale">
            <span>0 s</span>
            <span>{duration(millis(end - start))}</span>
          </th>
          <th scope="col" className="jp-mod-number">
            took
          </th>
          <th scope="col" className="jp-mod-number">
            peak
          </th>
          <th scope="col">where</th>
        </tr>
      </thead>
      <tbody onKeyDown={event => moveFocus(event)}>
        {executions.map((execution, row) => (
          <tr
            key={execution.id}
            data-row={execution.id}
            tabIndex={chosen === execution.id || (chosen === null && row === 0) ? 0 : -1}
            aria-selected={chosen === execution.id}
            className={chosen === execution.id ? 'jp-mod-selected' : ''}
            onClick={() => onChoose(execution.id)}
          >
            <td className="jp-mlb-StepsTable-step">
              <div>
                <LaneRow layout={layout} row={row} height={ROW} state={execution.state} />
                <span className="jp-mlb-StepList-name">{execution.step}</span>
                <span className="jp-mlb-StepList-extra">{remark(null, execution)}</span>
              </div>
            </td>
            <td>
              <Bars execution={execution} start={start} end={end} now={now * 1e6} />
            </td>
            <td className="jp-mod-number">{timeOf(execution, now)}</td>
            <td className="jp-mod-number jp-mod-quiet">
              {execution.peak_memory === null ? '' : size(execution.peak_memory)}
            </td>
            <td className="jp-mod-quiet">{execution.worker ?? ''}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function onRowKey(event: React.KeyboardEvent, onChoose: (execution: string) => void): void {
  const row = (event.target as HTMLElement).dataset?.row;
  if (row && (event.key === 'Enter' || event.key === ' ')) {
    onChoose(row);
    event.preventDefault();
  }
}

interface IBarsProps {
  readonly execution: IExecution;
  readonly start: number;
  readonly end: number;
  readonly now: number;
}

/** The time that a step waited in the queue, and the time that it ran. */
function Bars({ execution, start, end, now }: IBarsProps): JSX.Element {
  const { queued, started, ended, state } = execution;
  const place = (from: number, to: number): React.CSSProperties => ({
    left: `${(100 * (from - start)) / (end - start)}%`,
    width: `${Math.max(0.4, (100 * (to - from)) / (end - start))}%`
  });
  const waited = queued !== null && started !== null && started > queued;
  const waits = queued !== null && started === null && ended === null;
  const label = [
    waited ? `queued for ${duration(millis(started - queued))}` : '',
    started !== null ? `ran for ${duration(millis((ended ?? now) - started))}` : state
  ];
  return (
    <div className="jp-mlb-Bars" title={label.filter(Boolean).join(', ')}>
      {waited && <span className="jp-mlb-Bars-queue" style={place(queued, started)} />}
      {waits && <span className="jp-mlb-Bars-queue" style={place(queued, now)} />}
      {started !== null && (
        <span className="jp-mlb-Bars-run" data-state={state} style={place(started, ended ?? now)} />
      )}
      {started === null && ended !== null && (
        <span className="jp-mlb-Bars-skipped" style={place(Math.min(ended, end), ended)} />
      )}
    </div>
  );
}
