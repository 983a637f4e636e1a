/**
 * The pill at the top right of a step's cell.
 */

import * as React from 'react';

import type { IExecution } from '../api/schema';
import { LinkButton, useNow } from './shared';
import { StateIcon } from './stateicon';
import { remark, timeOf } from './steplist';

export interface IPillProps {
  readonly execution: IExecution;
  /** The steps that it waits for. */
  readonly waitsFor: ReadonlyArray<string>;
  /** Whether a cell that runs now waits for it. */
  readonly isAwaited: boolean;
  readonly onOpen: () => void;
  readonly onCancel: () => void;
  readonly onStopWaiting: () => void;
}

export function Pill(props: IPillProps): JSX.Element {
  const { execution, waitsFor, isAwaited } = props;
  const now = useNow(execution.state === 'running');
  const isUnderWay = execution.state === 'running' || execution.state === 'queued';
  const words = wordsOf(execution, waitsFor, timeOf(execution, now));
  return (
    <div className="jp-mlb-Pill" data-state={execution.state} data-step={execution.step}>
      <button
        type="button"
        className="jp-mlb-Pill-open"
        title={hint(execution)}
        aria-label={`Step ${execution.step}, ${execution.state} ${words}: open it on its run's page`}
        onClick={props.onOpen}
      >
        <StateIcon state={execution.state} size={12} />
        <b>{execution.step}</b>
        {words && <span className="jp-mlb-Pill-words">{words}</span>}
      </button>
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

function wordsOf(execution: IExecution, waitsFor: ReadonlyArray<string>, time: string): string {
  switch (execution.state) {
    case 'queued':
      return waitsFor.length ? `waits for ${waitsFor.join(', ')}` : 'queued';
    case 'failed':
    case 'cancelled':
    case 'skipped':
      return [execution.state, remark(null, execution), time].filter(Boolean).join(' · ');
    default:
      return time;
  }
}

function hint(execution: IExecution): string {
  const lines = ['Open it on the page of its run'];
  if (execution.failure) {
    lines.unshift(`${execution.failure.ename}: ${execution.failure.evalue}`);
  }
  if (execution.note) {
    lines.unshift(execution.note);
  }
  return lines.join('\n');
}
