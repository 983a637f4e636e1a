/**
 * One row of the lanes beside a list of steps: lines that pass, and the step's own sign.
 */

import * as React from 'react';

import type { ILanes } from '../model/lanes';
import { ShownState, StateIcon } from './stateicon';

const LANE = 12;
const MARGIN = 14;
/** Lanes that are drawn apart; what is further right is drawn in the last one. */
const MOST = 6;

export interface ILaneRowProps {
  readonly layout: ILanes;
  readonly row: number;
  readonly height: number;
  readonly state: ShownState;
  /** The step that is pointed at: its lines are drawn stronger. */
  readonly pointedAt?: number | null;
}

export function laneWidth(layout: ILanes): number {
  return Math.min(layout.width, MOST) * LANE + MARGIN;
}

export function LaneRow({ layout, row, height, state, pointedAt }: ILaneRowProps): JSX.Element {
  const x = (index: number) => Math.min(layout.lanes[index], MOST - 1) * LANE + MARGIN;
  const y = (index: number) => (index - row) * height + height / 2;
  const lines = layout.edges
    .filter(({ from, to }) => from <= row && row <= to)
    .map(({ from, to }) => {
      const strong = pointedAt === from || pointedAt === to;
      return (
        <path
          key={`${from}-${to}`}
          className={`jp-mlb-Lanes-line${strong ? ' jp-mod-strong' : ''}`}
          d={linePath(x(from), y(from), x(to), y(to), height)}
        />
      );
    });
  return (
    <svg className="jp-mlb-Lanes" width={laneWidth(layout)} height={height} aria-hidden={false}>
      {lines}
      <circle className="jp-mlb-Lanes-halo" cx={x(row)} cy={height / 2} r="8" />
      <StateIcon state={state} at={{ x: x(row) - 7, y: height / 2 - 7 }} />
    </svg>
  );
}

function linePath(xa: number, ya: number, xb: number, yb: number, h: number): string {
  if (xa === xb) {
    return `M${xa} ${ya}V${yb}`;
  }
  if (xb > xa) {
    return `M${xa} ${ya}C${xa} ${ya + h * 0.6} ${xb} ${ya + h * 0.3} ${xb} ${ya + h}V${yb}`;
  }
  return `M${xa} ${ya}V${yb - h}C${xa} ${yb - h * 0.4} ${xb} ${yb - h * 0.6} ${xb} ${yb}`;
}
