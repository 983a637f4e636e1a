/**
 * Runs, two lines each: any number of them, of which only those in sight are in the page.
 */

import * as React from 'react';

import type { IRunSummary } from '../api/schema';
import { ago, clock, counted, duration, exact, figure, millis } from '../model/format';
import type { RunsModel } from '../model/runs';
import { LinkButton, useNow } from './shared';
import { StateIcon } from './stateicon';

const ROW = 46;
const AROUND = 6;

export interface IRunListProps {
  readonly runs: RunsModel;
  /** What stands over the list, at the right. */
  readonly head: React.ReactNode;
  /** The run that another one is being chosen for, to compare them. */
  readonly compared: string | null;
  readonly onOpen: (run: IRunSummary) => void;
  /** Take a run for one of two that are compared. */
  readonly onCompare: (run: IRunSummary) => void;
  /** Show what can be done with a run, at a place of the page. */
  readonly onMenu: (run: IRunSummary, x: number, y: number) => void;
}

export function RunList(props: IRunListProps): JSX.Element {
  const { runs } = props;
  const { length, count, answered, waiting } = runs;
  const host = React.useRef<HTMLDivElement>(null);
  /** The run at the upper edge, which stays there when others come above it. */
  const anchor = React.useRef<{ readonly id: string; readonly offset: number } | null>(null);
  /** The number of the row that gets the keyboard when it is there. */
  const coming = React.useRef<number | null>(null);
  const [view, setView] = React.useState({ top: 0, height: 600 });
  const [active, setActive] = React.useState<string | null>(null);
  const [isPointed, setPointed] = React.useState(false);
  const [isFocused, setFocused] = React.useState(false);
  // Newest first, what comes stands above: it moves nothing but what is seen of the beginning.
  const isBusy = isPointed || isFocused;
  const isHeld = answered?.sort === null ? isBusy && view.top === 0 : isBusy || view.top > 0;
  React.useEffect(() => runs.hold(isHeld), [runs, isHeld]);
  React.useEffect(() => () => runs.hold(false), [runs]);
  const first = Math.max(0, Math.floor(view.top / ROW) - AROUND);
  const last = Math.min(length, Math.ceil((view.top + view.height) / ROW) + AROUND);
  const shown = runs.slice(first, last);
  const now = useNow(shown.some(each => each?.run.state === 'running'));
  const measure = React.useCallback(() => {
    const node = host.current;
    if (node) {
      const top = node.scrollTop;
      const at = Math.floor(top / ROW);
      const edge = top > 0 ? runs.slice(at, at + 1)[0] : null;
      anchor.current = edge ? { id: edge.run.id, offset: top - at * ROW } : null;
      setView({ top, height: node.clientHeight || 600 });
    }
  }, [runs]);
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
  React.useLayoutEffect(() => {
    // Another list begins at its beginning.
    anchor.current = null;
    if (host.current) {
      host.current.scrollTop = 0;
    }
  }, [answered]);
  React.useLayoutEffect(() => {
    const node = host.current;
    if (!node || !anchor.current) {
      return;
    }
    const at = runs.indexOf(anchor.current.id);
    const top = at * ROW + anchor.current.offset;
    if (at >= 0 && Math.abs(top - node.scrollTop) > 1) {
      node.scrollTop = top;
      measure();
    }
  });
  React.useEffect(() => runs.show(first, last), [runs, first, last, length]);
  React.useLayoutEffect(() => {
    if (coming.current !== null) {
      const row = host.current?.querySelector<HTMLElement>(`[data-at='${coming.current}']`);
      if (row) {
        coming.current = null;
        row.focus({ preventScroll: true });
      }
    }
  });
  const onKey = (event: React.KeyboardEvent<HTMLElement>) => {
    const node = host.current;
    const at = Number((event.target as HTMLElement).dataset.at);
    const page = Math.max(1, Math.floor(view.height / ROW) - 1);
    const moves: { readonly [key: string]: number } = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: length - 1
    };
    if (!node || !Number.isInteger(at) || !(event.key in moves)) {
      return;
    }
    event.preventDefault();
    const to = Math.max(0, Math.min(length - 1, moves[event.key]));
    coming.current = to;
    if (to * ROW < node.scrollTop) {
      node.scrollTop = to * ROW;
    } else if ((to + 1) * ROW > node.scrollTop + node.clientHeight) {
      node.scrollTop = (to + 1) * ROW - node.clientHeight;
    }
    measure();
  };
  const showWaiting = () => {
    anchor.current = null;
    if (host.current) {
      host.current.scrollTop = 0;
    }
    runs.showWaiting();
  };
  const activeRow = shown.find(each => each?.run.id === active) ?? shown.find(each => each) ?? null;
  return (
    <div
      className="jp-mlb-Runs-listed"
      onPointerEnter={() => setPointed(true)}
      onPointerLeave={() => setPointed(false)}
      onFocus={event => setFocused(event.target.matches('[data-row]:focus-visible'))}
      onBlur={() => setFocused(false)}
    >
      <div className="jp-mlb-Runs-head">
        <span role="status">
          {waiting && (
            <LinkButton title="They stay in their places while you are here" onClick={showWaiting}>
              {waiting.fresh ? `Show ${counted(waiting.fresh, 'new run')}` : 'Show the new order'}
            </LinkButton>
          )}
        </span>
        {props.head}
      </div>
      <div
        className="jp-mlb-RunList"
        role="list"
        aria-label="Runs"
        aria-busy={runs.isBehind}
        ref={host}
        onScroll={measure}
        onKeyDown={onKey}
        onFocus={event => setActive((event.target as HTMLElement).dataset.row ?? null)}
      >
        <div style={{ height: first * ROW }} />
        {shown.map((each, place) =>
          each ? (
            <RunRow
              {...props}
              key={each.run.id}
              at={first + place}
              count={count}
              isActive={each === activeRow}
              summary={each}
              now={now}
            />
          ) : (
            <div key={first + place} role="listitem" aria-busy="true" style={{ height: ROW }} />
          )
        )}
        <div style={{ height: (length - last) * ROW }} />
        {runs.hasMore && (
          <div className="jp-mlb-RunList-more" aria-hidden="true">
            {counted(count - length, 'more run')} …
          </div>
        )}
      </div>
    </div>
  );
}

interface IRunRowProps extends IRunListProps {
  readonly summary: IRunSummary;
  readonly at: number;
  readonly count: number;
  readonly isActive: boolean;
  readonly now: number;
}

function RunRow(props: IRunRowProps): JSX.Element {
  const { summary, runs, compared, now } = props;
  const { run } = summary;
  const started = millis(run.started);
  const isRunning = run.state === 'running';
  const done = summary.steps_total ? summary.steps_done / summary.steps_total : 0;
  const isCompared = compared === run.id;
  return (
    <div
      role="listitem"
      aria-setsize={props.count}
      aria-posinset={props.at + 1}
      style={{ height: ROW }}
    >
      <button
        type="button"
        data-row={run.id}
        data-at={props.at}
        tabIndex={props.isActive ? 0 : -1}
        className={`jp-mlb-RunList-row${isCompared ? ' jp-mod-compared' : ''}`}
        title={`${run.name}, ${run.kind}, ${exact(started)}${run.user ? `, ${run.user}` : ''}`}
        onClick={event => {
          if (event.ctrlKey || event.metaKey || compared !== null) {
            props.onCompare(summary);
          } else {
            props.onOpen(summary);
          }
        }}
        onContextMenu={event => {
          event.preventDefault();
          event.stopPropagation();
          const box = event.currentTarget.getBoundingClientRect();
          // From the keyboard it comes without a place.
          const isPointed = event.clientX > 0 || event.clientY > 0;
          props.onMenu(
            summary,
            isPointed ? event.clientX : box.left + 24,
            isPointed ? event.clientY : box.bottom - 8
          );
        }}
      >
        <StateIcon state={run.state} />
        <span className="jp-mlb-RunList-name">{runName(summary)}</span>
        <span className="jp-mlb-RunList-when">
          {isRunning ? clock(now - started) : ago(started, now)}
        </span>
        <span className="jp-mlb-RunList-facts">
          <RunFacts
            summary={summary}
            isBest={runs.best === run.id}
            user={runs.isShared ? run.user : null}
          />
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

interface IRunFactsProps {
  readonly summary: IRunSummary;
  readonly isBest: boolean;
  /** Whose run it is, where there are those of others. */
  readonly user: string | null;
}

/** What tells a run apart: its metric, the parameters that the run before had otherwise, how long it took. */
function RunFacts({ summary, isBest, user }: IRunFactsProps): JSX.Element {
  const { run, metric, error, changed } = summary;
  if (run.state === 'failed' && error) {
    return <span className="jp-mlb-RunList-error">{error}</span>;
  }
  return (
    <>
      {metric && (
        <span className={isBest ? 'jp-mlb-RunList-best' : undefined}>
          {metric.name} <b>{figure(metric.value)}</b>
          {isBest && ' best'}
        </span>
      )}
      {changed.slice(0, 3).map(name => (
        <span key={name} title="The run before had it otherwise">
          {name} <b>{said(run.parameters[name])}</b>
        </span>
      ))}
      {changed.length > 3 && <span>{changed.length - 3} more changed</span>}
      {run.ended !== null && <span>{duration(millis(run.ended - run.started))}</span>}
      {run.ended === null && summary.steps_total > 0 && (
        <span>
          {summary.steps_done} of {summary.steps_total} steps
        </span>
      )}
      {user !== null && <span>{user}</span>}
    </>
  );
}

function said(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** A run's name; a job's run carries its version. */
export function runName({ run, job }: Pick<IRunSummary, 'run' | 'job'>): string {
  return job ? `${job}${run.job_version === null ? '' : ` v${run.job_version}`}` : run.name;
}

/** A run of which the other one is being chosen. */
export type IComparedRun = Pick<IRunSummary, 'run' | 'path' | 'job'>;

export interface IComparedWithProps {
  readonly run: IComparedRun;
  readonly onWith: (earlier: string) => void;
  readonly onCancel: () => void;
}

/** What stands over the list while the other one of two runs is chosen. */
export function ComparedWith({ run, onWith, onCancel }: IComparedWithProps): JSX.Element {
  return (
    <div className="jp-mlb-ComparedWith" role="status">
      <span>
        Compare <b>{runName(run)}</b> <code>{run.run.id.slice(0, 4)}</code> with the run that you
        choose, or with
      </span>
      <span className="jp-mlb-Line-actions">
        <LinkButton onClick={() => onWith('run-before')}>the run before</LinkButton>
        <LinkButton onClick={() => onWith('last-success')}>the last success</LinkButton>
        <LinkButton onClick={onCancel}>Cancel</LinkButton>
      </span>
    </div>
  );
}
