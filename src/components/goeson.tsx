/**
 * One line about the steps that go on though their kernel was restarted or shut down.
 */

import * as React from 'react';

import type { IExecution } from '../api/schema';
import { Line, LinkButton } from './shared';

export interface IGoesOnProps {
  readonly steps: ReadonlyArray<IExecution>;
  readonly onCancel: () => void;
}

export function GoesOn({ steps, onCancel }: IGoesOnProps): JSX.Element | null {
  if (!steps.length) {
    return null;
  }
  const names = [...new Set(steps.map(each => each.step))];
  return (
    <Line>
      <span className="jp-mlb-GoesOn" role="status">
        The kernel has ended; <b>{names.join(', ')}</b> {names.length > 1 ? 'go' : 'goes'} on.{' '}
        <LinkButton onClick={onCancel}>{names.length > 1 ? 'Cancel them' : 'Cancel it'}</LinkButton>
      </span>
    </Line>
  );
}
