/**
 * One line about the steps that go on though their kernel was restarted or shut down.
 */

import * as React from 'react';

import type { IExecution } from '../api/schema';
import { goesOn } from '../model/steps';
import { Line, LinkButton } from './shared';

export interface IGoesOnProps {
  readonly steps: ReadonlyArray<IExecution>;
  readonly onCancel: () => void;
}

export function GoesOn({ steps, onCancel }: IGoesOnProps): JSX.Element | null {
  if (!steps.length) {
    return null;
  }
  return (
    <Line>
      <span className="jp-mlb-GoesOn" role="status">
        {goesOn(steps)}{' '}
        <LinkButton onClick={onCancel}>{steps.length > 1 ? 'Cancel them' : 'Cancel it'}</LinkButton>
      </span>
    </Line>
  );
}
