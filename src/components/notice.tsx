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
  readonly onInsert: () => void;
}

export function Notice({ kind, install, onInsert }: INoticeProps): JSX.Element {
  return (
    <div className="jp-mlb-Notice" role="note">
      {kind === 'not-loaded' ? (
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
