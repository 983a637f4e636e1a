/**
 * The pill at the top right of a step's cell.
 */

import * as React from 'react';

import type { IExecution } from '../api/schema';
import { millis } from '../model/format';
import { LinkButton, useNow } from './shared';
import { StateIcon } from './stateicon';
import { remark, timeOf } from './steplist';

export interface IPillProps {
  readonly execution: IExecution;
  /** The steps that it waits for. */
  readonly waitsFor: ReadonlyArray<string>;
  /** Whether a cell that runs now waits for it. */
  readonly isAwaited: boolean;
  /** How far it says that it is, and which attempt it is at, if it is not the first. */
  readonly howFar: string;
  /** Why it is out of date, if it is. */
  readonly staleness: string | undefined;
  /** The run that it was reused from, once that is known. */
  readonly reusedFrom: string | null;
  readonly onOpen: () => void;
  readonly onOpenRun: (run: string) => void;
  readonly onCancel: () => void;
  readonly onStopWaiting: () => void;
}

export function Pill(props: IPillProps): JSX.Element {
  const { execution, isAwaited, staleness, reusedFrom } = props;
  const isUnderWay = execution.state === 'running' || execution.state === 'queued';
  const now = useNow(isUnderWay);
  const words = wordsOf(props, now);
  return (
    <div className="jp-mlb-Pill" data-state={execution.state} data-step={execution.step}>
      <button
        type="button"
        className="jp-mlb-Pill-open"
        title={hint(execution, staleness)}
        aria-label={`Step ${execution.step}, ${execution.state} ${words}: open it on its run's page`}
        onClick={props.onOpen}
      >
        <StateIcon state={execution.state} size={12} />
        <b>{execution.step}</b>
        {words && <span className="jp-mlb-Pill-words">{words}</span>}
        {staleness && <span className="jp-mlb-Stale">out of date</span>}
      </button>
      {execution.state === 'reused' && reusedFrom && (
        <LinkButton
          onClick={() => props.onOpenRun(reusedFrom)}
          title={`Open run ${reusedFrom}, in which it ran`}
        >
          reused from {reusedFrom.slice(0, 4)}
        </LinkButton>
      )}
      {isUnderWay && (
        <LinkButton onClick={props.onCancel} title={`Cancel ${execution.step}`}>
          cancel
        </LinkButton>
      )}
      {isUnderWay && isAwaited && (
        <LinkButton onClick={props.onStopWaiting} title="End the wait; the step goes on">
          don’t wait
        </LinkButton>
      )}
    </div>
  );
}

/** After this long in the queue with nothing to wait for, in milliseconds, it waits for a place. */
const WAITS_FOR_PLACE = 2000;

function wordsOf({ execution, waitsFor, howFar }: IPillProps, now: number): string {
  const { state, fanout, reused_from: origin } = execution;
  // How far its items are is told under the cell.
  const items = fanout?.total ? `×${fanout.total.toLocaleString('en-US')}` : '';
  const time = timeOf(execution, now);
  const parts = (...said: (string | null)[]) => said.filter(Boolean).join(' · ');
  switch (state) {
    case 'queued':
      return parts(
        howFar,
        waitsFor.length ? `waits for ${waitsFor.join(', ')}` : queued(execution, now)
      );
    case 'failed':
    case 'cancelled':
    case 'skipped':
      return parts(state, fanout?.failed ? null : remark(null, execution), items, howFar, time);
    case 'reused':
      return parts(items, origin === null ? 'reused' : null);
    default:
      return parts(items, howFar, time);
  }
}

function queued(execution: IExecution, now: number): string {
  if (execution.attempts.length) {
    return 'waits before it is tried again';
  }
  const since = execution.queued === null ? now : millis(execution.queued);
  return now - since > WAITS_FOR_PLACE ? 'waits for a free worker' : 'queued';
}

function hint(execution: IExecution, staleness: string | undefined): string {
  const lines = ['Open it on the page of its run'];
  if (staleness) {
    lines.unshift(`Out of date: ${staleness}`);
  }
  if (execution.failure) {
    lines.unshift(`${execution.failure.ename}: ${execution.failure.evalue}`);
  }
  if (execution.note) {
    lines.unshift(execution.note);
  }
  return lines.join('\n');
}
