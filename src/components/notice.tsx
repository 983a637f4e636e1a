/**
 * One line on a step's cell whose kernel cannot run steps yet.
 */

import { Clipboard } from '@jupyterlab/apputils';
import * as React from 'react';

import { LinkButton } from './shared';

export interface INoticeProps {
  readonly kind: 'not-loaded' | 'lacks-mlbench';
  /** What installs mlbench into the kernel's environment. */
  readonly install: string;
  /** Whether a cell of the notebook loads mlbench, which has not run yet. */
  readonly hasLoad: boolean;
  readonly onInsert: () => void;
  readonly onRun: () => void;
}

export function Notice(props: INoticeProps): JSX.Element {
  const { kind, install, hasLoad, onInsert, onRun } = props;
  return (
    <div className="jp-mlb-Notice" role="note">
      {kind === 'not-loaded' && hasLoad ? (
        <>
          <span>The cell that loads mlbench has not run in this kernel yet.</span>
          <LinkButton onClick={onRun}>Run it, then this one</LinkButton>
        </>
      ) : kind === 'not-loaded' ? (
        <>
          <span>
            This notebook does not load mlbench, which knows <code>%%step</code>.
          </span>
          <LinkButton onClick={onInsert}>
            Insert <code>%load_ext mlbench</code>
          </LinkButton>
        </>
      ) : (
        <>
          <span>This kernel’s environment lacks mlbench. Run in a cell, then restart it:</span>
          <code className="jp-mlb-Notice-line">{install}</code>
          <LinkButton onClick={() => Clipboard.copyToSystem(install)}>copy</LinkButton>
        </>
      )}
    </div>
  );
}
