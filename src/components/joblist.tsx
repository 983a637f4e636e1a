/**
 * Jobs: when they run next, and what can be done with them.
 */

import { ellipsesIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IJobView } from '../api/schema';
import { exact, until } from '../model/format';
import { moveFocus, useNow } from './shared';
import { ShownState, StateIcon } from './stateicon';

export interface IJobListProps {
  readonly jobs: ReadonlyArray<IJobView>;
  /** Open the last run of a job. */
  readonly onOpen: (job: IJobView) => void;
  /** Show what can be done with a job, at a place of the page. */
  readonly onMenu: (job: IJobView, x: number, y: number) => void;
}

export function JobList({ jobs, onOpen, onMenu }: IJobListProps): JSX.Element {
  const now = useNow(jobs.some(each => each.last?.state === 'running'));
  return (
    <div className="jp-mlb-JobList" role="list" aria-label="Jobs" onKeyDown={moveFocus}>
      {jobs.map(view => (
        <div role="listitem" className="jp-mlb-JobList-item" key={view.job.id}>
          <button
            type="button"
            data-row={view.job.id}
            className="jp-mlb-JobList-row"
            title={`${view.sentence ?? 'Runs when it is asked to'}\n${lastWords(view)}`}
            onClick={() => onOpen(view)}
            onContextMenu={event => {
              event.preventDefault();
              event.stopPropagation();
              onMenu(view, event.clientX, event.clientY);
            }}
          >
            <StateIcon state={stateOf(view)} />
            <span className="jp-mlb-RunList-name">{view.job.name}</span>
            <span className="jp-mlb-RunList-when" title={nextExact(view)}>
              {nextWords(view, now)}
            </span>
            <span className="jp-mlb-RunList-facts">
              <span>v{view.job.version.number}</span>
              {view.job.problem ? (
                <span className="jp-mlb-RunList-error">{view.job.problem}</span>
              ) : (
                <span>{view.short ?? 'no schedule'}</span>
              )}
            </span>
            {view.last && isTrouble(view) && (
              <span className="jp-mlb-RunList-facts jp-mlb-RunList-error">{lastWords(view)}</span>
            )}
          </button>
          <button
            type="button"
            className="jp-mlb-JobList-more"
            aria-label={`Actions of ${view.job.name}`}
            aria-haspopup="menu"
            title="Run now, pause, delete"
            onClick={event => {
              const box = event.currentTarget.getBoundingClientRect();
              onMenu(view, box.left, box.bottom);
            }}
          >
            <ellipsesIcon.react tag="span" width="16px" height="16px" />
          </button>
        </div>
      ))}
    </div>
  );
}

function stateOf(view: IJobView): ShownState {
  if (view.last && view.last.state === 'skipped') {
    return 'skipped';
  }
  return view.last?.state ?? 'none';
}

function isTrouble(view: IJobView): boolean {
  const { last } = view;
  return Boolean(last && (last.state === 'failed' || last.state === 'skipped' || last.skipped > 0));
}

function lastWords({ last, error }: IJobView): string {
  if (!last) {
    return 'Has not run yet';
  }
  const missed = last.skipped ? `, ${last.skipped} missed before it` : '';
  const why = error ?? last.reason;
  return `last ${last.state}${why ? `: ${why}` : ''}${missed}`;
}

function nextWords(view: IJobView, now: number): string {
  if (view.job.paused) {
    return 'paused';
  }
  if (view.last?.state === 'running' || view.last?.state === 'queued') {
    return view.last.state;
  }
  return view.job.next_due === null ? '' : until(view.job.next_due * 1000, now);
}

function nextExact(view: IJobView): string | undefined {
  return view.job.next_due === null ? undefined : exact(view.job.next_due * 1000);
}
