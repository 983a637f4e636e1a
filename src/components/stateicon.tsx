/**
 * A state's shape: never its colour alone.
 */

import * as React from 'react';

import type { IExecution } from '../api/schema';

/** A step that this kernel has not run is in no state of the record. */
export type ShownState = IExecution['state'] | 'none';

const WORDS: { readonly [state in ShownState]: string } = {
  none: 'not run yet',
  queued: 'queued',
  running: 'running',
  succeeded: 'succeeded',
  failed: 'failed',
  cancelled: 'cancelled',
  reused: 'reused',
  skipped: 'skipped'
};

const TICK = <path className="jp-mlb-StateIcon-sign" d="M4 7.2l2.1 2.1L10 5.2" />;

const SHAPES: { readonly [state in ShownState]: JSX.Element } = {
  none: <circle className="jp-mlb-StateIcon-ring" cx="7" cy="7" r="3" />,
  queued: (
    <circle className="jp-mlb-StateIcon-ring" cx="7" cy="7" r="5.2" strokeDasharray="2.4 2.2" />
  ),
  running: (
    <>
      <circle className="jp-mlb-StateIcon-track" cx="7" cy="7" r="5.4" />
      <path className="jp-mlb-StateIcon-arc" d="M7 1.6a5.4 5.4 0 0 1 5.4 5.4" />
    </>
  ),
  succeeded: (
    <>
      <circle className="jp-mlb-StateIcon-disc" cx="7" cy="7" r="6.2" />
      {TICK}
    </>
  ),
  failed: (
    <>
      <circle className="jp-mlb-StateIcon-disc" cx="7" cy="7" r="6.2" />
      <path className="jp-mlb-StateIcon-sign" d="M4.7 4.7l4.6 4.6M9.3 4.7L4.7 9.3" />
    </>
  ),
  cancelled: (
    <>
      <circle className="jp-mlb-StateIcon-disc" cx="7" cy="7" r="6.2" />
      <rect className="jp-mlb-StateIcon-square" x="4.6" y="4.6" width="4.8" height="4.8" rx=".8" />
    </>
  ),
  reused: (
    <>
      <circle className="jp-mlb-StateIcon-ring" cx="7" cy="7" r="6" />
      {TICK}
    </>
  ),
  skipped: (
    <>
      <circle className="jp-mlb-StateIcon-ring" cx="7" cy="7" r="5.6" />
      <path className="jp-mlb-StateIcon-dash" d="M4.5 7h5" />
    </>
  )
};

export interface IStateIconProps {
  readonly state: ShownState;
  readonly size?: number;
  /** The place in a drawing that it is part of. */
  readonly at?: { readonly x: number; readonly y: number };
}

export function StateIcon({ state, size = 14, at }: IStateIconProps): JSX.Element {
  return (
    <svg
      className="jp-mlb-StateIcon"
      data-state={state}
      role="img"
      aria-label={WORDS[state]}
      viewBox="0 0 14 14"
      width={size}
      height={size}
      {...at}
    >
      <title>{WORDS[state]}</title>
      {SHAPES[state]}
    </svg>
  );
}
