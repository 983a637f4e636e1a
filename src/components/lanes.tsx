/**
 * One row of the lanes beside a list of steps: lines that pass, and the step's own sign.
 */

import * as React from 'react';

import type { ILaneEdge, ILanes } from '../model/lanes';
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
  const column = (lane: number) => Math.min(lane, MOST - 1) * LANE + MARGIN;
  const x = (index: number) => column(layout.lanes[index]);
  const y = (index: number) => (index - row) * height + height / 2;
  const lines = layout.edges
    .filter(({ from, to }) => from <= row && row <= to)
    .map(({ from, to, lane }) => {
      const strong = pointedAt === from || pointedAt === to;
      return (
        <path
          key={`${from}-${to}`}
          className={`jp-mlb-Lanes-line${strong ? ' jp-mod-strong' : ''}`}
          d={linePath([x(from), y(from)], column(lane), [x(to), y(to)], height)}
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

/** The lines that go on below a row, through something that stands between it and the next. */
export function LanesBelow({ layout, row, height }: Omit<ILaneRowProps, 'state'>): JSX.Element {
  const column = (lane: number) => Math.min(lane, MOST - 1) * LANE + MARGIN;
  const at = (index: number, { from, to, lane }: ILaneEdge) =>
    column(index === from || index === to ? layout.lanes[index] : lane);
  const edges = layout.edges.filter(({ from, to }) => from <= row && row < to);
  return (
    <svg className="jp-mlb-Lanes" width={laneWidth(layout)} height={height} aria-hidden="true">
      {edges.map(edge => {
        // Half way between two rows a curve is half way between their lanes.
        const x = (at(row, edge) + at(row + 1, edge)) / 2;
        return (
          <path
            key={`${edge.from}-${edge.to}`}
            className="jp-mlb-Lanes-line"
            d={`M${x} 0V${height}`}
          />
        );
      })}
    </svg>
  );
}

type Point = readonly [number, number];

/** A line that leaves its parent for a lane, follows it, and turns to its child in the last row. */
function linePath([xa, ya]: Point, lane: number, [xb, yb]: Point, h: number): string {
  if (yb - ya <= h) {
    return `M${xa} ${ya}${curve(xa, ya, xb, yb)}`;
  }
  return `M${xa} ${ya}${curve(xa, ya, lane, ya + h)}V${yb - h}${curve(lane, yb - h, xb, yb)}`;
}

function curve(xa: number, ya: number, xb: number, yb: number): string {
  const middle = (ya + yb) / 2;
  return xa === xb ? `V${yb}` : `C${xa} ${middle} ${xb} ${middle} ${xb} ${yb}`;
}
