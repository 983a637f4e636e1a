/**
 * The steps of a notebook, one line each, with lanes.
 */

import * as React from 'react';

import type { IExecution, IGraph, IGraphStep } from '../api/schema';
import { fanoutWords, secondsWords } from '../model/fanout';
import { clock, duration, millis } from '../model/format';
import { layOut } from '../model/lanes';
import { FanOutBar } from './fanout';
import { LaneRow } from './lanes';
import { Line, LinkButton, moveFocus, useNow } from './shared';
import type { ShownState } from './stateicon';

const ROW = 26;

export interface IStepListProps {
  readonly graph: IGraph;
  readonly activeCell: string | null;
  readonly executionOf: (cell: string) => IExecution | undefined;
  /** How far a cell's execution says that it is, and which attempt it is at, if it is not the first. */
  readonly howFar: (cell: string) => string;
  /** Why the last execution of a cell is out of date; undefined if it is not. */
  readonly staleness: (cell: string) => string | undefined;
  /** The run that an execution was reused from, once that is known. */
  readonly reusedFrom: (execution: IExecution) => string | null;
  readonly onOpenRun: (run: string) => void;
  readonly onOpen: (cell: string) => void;
}

export function StepList(props: IStepListProps): JSX.Element {
  const { graph, activeCell, executionOf, onOpen } = props;
  const [pointed, setPointed] = React.useState<number | null>(null);
  const executions = graph.steps.map(step => executionOf(step.cell));
  const now = useNow(executions.some(each => each?.state === 'running'));
  const layout = React.useMemo(
    () =>
      layOut(
        graph.steps.map(step => ({ name: step.name, parents: step.parents.map(each => each.step) }))
      ),
    [graph]
  );
  const related = relatives(graph, pointed);
  return (
    <div className="jp-mlb-StepList" role="list" aria-label="Steps" onKeyDown={moveFocus}>
      {graph.steps.map((step, row) => {
        const execution = executions[row];
        const isActive = step.cell === activeCell;
        const stale = props.staleness(step.cell);
        const origin = execution?.state === 'reused' ? props.reusedFrom(execution) : null;
        return (
          <div role="listitem" className="jp-mlb-StepList-item" key={step.cell}>
            <button
              type="button"
              data-row={row}
              className={[
                'jp-mlb-StepList-row',
                isActive ? 'jp-mod-active' : '',
                related.has(row) ? 'jp-mod-related' : ''
              ].join(' ')}
              aria-current={isActive || undefined}
              title={hint(step, execution, stale)}
              onClick={() => onOpen(step.cell)}
              onMouseEnter={() => setPointed(row)}
              onMouseLeave={() => setPointed(null)}
              onFocus={() => setPointed(row)}
              onBlur={() => setPointed(null)}
            >
              <LaneRow
                layout={layout}
                row={row}
                height={ROW}
                state={shownState(execution)}
                pointedAt={pointed}
              />
              <span className="jp-mlb-StepList-name">{step.name}</span>
              <span className="jp-mlb-StepList-extra">
                {stale && <span className="jp-mlb-Stale">out of date</span>}
                {[props.howFar(step.cell), remark(step, execution)].filter(Boolean).join(' · ')}
              </span>
              {!origin && <span className="jp-mlb-StepList-time">{timeOf(execution, now)}</span>}
            </button>
            {origin && (
              <span className="jp-mlb-StepList-origin">
                <LinkButton
                  title={`Open run ${origin}, in which it ran`}
                  onClick={() => props.onOpenRun(origin)}
                >
                  from {origin.slice(0, 4)}
                </LinkButton>
              </span>
            )}
            {execution?.fanout && execution.state === 'running' && (
              <FanOutBar
                counts={execution.fanout}
                total={execution.fanout.total}
                isUnderWay
                label={fanoutWords(execution.fanout, true)}
              />
            )}
          </div>
        );
      })}
      {graph.problems.map(problem => (
        <Line kind="error" key={problem}>
          {problem}
        </Line>
      ))}
    </div>
  );
}

export function shownState(execution: IExecution | undefined): ShownState {
  return execution?.state ?? 'none';
}

/** How long a step took, or how long it has been running. */
export function timeOf(execution: IExecution | undefined, now: number): string {
  if (!execution || execution.started === null || execution.state === 'queued') {
    return '';
  }
  if (execution.ended === null) {
    return clock(now - millis(execution.started));
  }
  const took = millis(execution.ended - execution.started);
  return execution.part_of === null ? duration(took) : secondsWords(took / 1000);
}

/** What there is to say of a step in a few words: of its items, its attempts, or why it did not succeed. */
export function remark(step: IGraphStep | null, execution: IExecution | undefined): string {
  if (step && step.problems.length) {
    return step.problems[0];
  }
  if (!execution) {
    return '';
  }
  const { state, fanout } = execution;
  const isUnderWay = state === 'running' || state === 'queued';
  const items = step && fanout ? fanoutWords(fanout, isUnderWay) : '';
  return [items, items && fanout?.failed ? '' : why(execution)].filter(Boolean).join(' · ');
}

function why({ state, failure, reason, note }: IExecution): string {
  switch (state) {
    case 'failed':
      return failure?.ename ?? reason ?? '';
    case 'skipped':
    case 'cancelled':
      return note ?? failure?.evalue ?? '';
    default:
      return '';
  }
}

function hint(
  step: IGraphStep,
  execution: IExecution | undefined,
  stale: string | undefined
): string {
  const lines = [
    step.name,
    ...step.parents.map(parent => `waits for ${parent.step}: ${parent.why}`)
  ];
  if (execution?.failure) {
    lines.push(`${execution.failure.ename}: ${execution.failure.evalue}`);
  }
  if (execution?.note) {
    lines.push(execution.note);
  }
  if (stale) {
    lines.push(`Out of date: ${stale}`);
  }
  return [...lines, ...step.problems].join('\n');
}

function relatives(graph: IGraph, row: number | null): Set<number> {
  const found = new Set<number>();
  if (row === null) {
    return found;
  }
  const parents = new Set(graph.steps[row]?.parents.map(each => each.step));
  graph.steps.forEach((step, other) => {
    const isChild = step.parents.some(each => each.step === graph.steps[row]?.name);
    if (isChild || parents.has(step.name)) {
      found.add(other);
    }
  });
  return found;
}
