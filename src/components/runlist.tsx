/**
 * Runs, two lines each; only those in sight are in the page.
 */

import * as React from 'react';

import type { IRunSummary } from '../api/schema';
import { ago, clock, duration, exact, figure, millis } from '../model/format';
import { moveFocus, useNow } from './shared';
import { StateIcon } from './stateicon';

const ROW = 46;
const AROUND = 6;

export interface IRunListProps {
  readonly runs: ReadonlyArray<IRunSummary>;
  readonly hasMore: boolean;
  readonly onOpen: (run: IRunSummary) => void;
  readonly onMore: () => void;
}

export function RunList({ runs, hasMore, onOpen, onMore }: IRunListProps): JSX.Element {
  const host = React.useRef<HTMLDivElement>(null);
  const [view, setView] = React.useState({ top: 0, height: 600 });
  const now = useNow(runs.some(each => each.run.state === 'running'));
  const measure = React.useCallback(() => {
    const node = host.current;
    if (node) {
      setView({ top: node.scrollTop, height: node.clientHeight || 600 });
    }
  }, []);
  React.useEffect(() => {
    const node = host.current;
    if (!node) {
      return;
    }
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(node);
    return () => observer.disconnect();
  }, [measure]);
  const first = Math.max(0, Math.floor(view.top / ROW) - AROUND);
  const last = Math.min(runs.length, Math.ceil((view.top + view.height) / ROW) + AROUND);
  const isNearEnd = hasMore && last >= runs.length - AROUND;
  React.useEffect(() => {
    if (isNearEnd) {
      onMore();
    }
  }, [isNearEnd, runs.length, onMore]);
  return (
    <div
      className="jp-mlb-RunList"
      role="list"
      aria-label="Runs"
      ref={host}
      onScroll={measure}
      onKeyDown={moveFocus}
    >
      <div style={{ height: first * ROW }} />
      {runs.slice(first, last).map(each => (
        <RunRow key={each.run.id} summary={each} now={now} onOpen={onOpen} />
      ))}
      <div style={{ height: (runs.length - last) * ROW }} />
    </div>
  );
}

interface IRunRowProps {
  readonly summary: IRunSummary;
  readonly now: number;
  readonly onOpen: (run: IRunSummary) => void;
}

function RunRow({ summary, now, onOpen }: IRunRowProps): JSX.Element {
  const { run } = summary;
  const started = millis(run.started);
  const isRunning = run.state === 'running';
  const done = summary.steps_total ? summary.steps_done / summary.steps_total : 0;
  return (
    <div role="listitem" style={{ height: ROW }}>
      <button
        type="button"
        data-row={run.id}
        className="jp-mlb-RunList-row"
        title={`${run.name}, ${run.kind}, ${exact(started)}`}
        onClick={() => onOpen(summary)}
      >
        <StateIcon state={run.state} />
        <span className="jp-mlb-RunList-name">{runName(summary)}</span>
        <span className="jp-mlb-RunList-when">
          {isRunning ? clock(now - started) : ago(started, now)}
        </span>
        <span className="jp-mlb-RunList-facts">
          <RunFacts summary={summary} />
        </span>
        {isRunning && summary.steps_total > 0 && (
          <span className="jp-mlb-Bar" aria-hidden="true">
            <span className="jp-mlb-Bar-done" style={{ width: `${done * 100}%` }} />
          </span>
        )}
      </button>
    </div>
  );
}

function RunFacts({ summary }: { readonly summary: IRunSummary }): JSX.Element {
  const { run, metric, error } = summary;
  if (run.state === 'failed' && error) {
    return <span className="jp-mlb-RunList-error">{error}</span>;
  }
  const parameters = Object.entries(run.parameters).slice(0, 3);
  return (
    <>
      {metric && (
        <span>
          {metric.name} <b>{figure(metric.value)}</b>
        </span>
      )}
      {parameters.map(([name, value]) => (
        <span key={name}>
          {name} {typeof value === 'string' ? value : JSON.stringify(value)}
        </span>
      ))}
      {run.ended !== null && <span>{duration(millis(run.ended - run.started))}</span>}
      {run.ended === null && summary.steps_total > 0 && (
        <span>
          {summary.steps_done} of {summary.steps_total} steps
        </span>
      )}
    </>
  );
}

/** A run's name; a job's run carries its version. */
export function runName({ run, job }: Pick<IRunSummary, 'run' | 'job'>): string {
  return job ? `${job}${run.job_version === null ? '' : ` v${run.job_version}`}` : run.name;
}
