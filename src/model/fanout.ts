/**
 * The picture of a fan-out: what its output says, in numbers, in shares of a bar, and in the cells of a heat map.
 */

import { figure, plainly } from './format';

/** The type of the output that holds the picture. */
export const FANOUT_MIME = 'application/vnd.mlbench.fanout+json';

/** What became of an item so far: queued, running, succeeded, reused, failed, cancelled. */
export type ItemState = 'q' | 'r' | 's' | 'u' | 'f' | 'c';

export interface IItemCounts {
  readonly running: number;
  readonly succeeded: number;
  readonly reused: number;
  readonly failed: number;
  readonly cancelled: number;
}

export interface ISlowest {
  readonly item: number;
  readonly label: string;
  readonly seconds: number;
}

export interface IFailedItem {
  readonly item: number;
  readonly label: string;
  readonly why: string;
}

export interface IPicture {
  readonly execution: string;
  readonly step: string;
  readonly names: ReadonlyArray<string>;
  readonly shape: ReadonlyArray<number>;
  /** Null until the expressions have been evaluated. */
  readonly total: number | null;
  readonly counts: IItemCounts;
  /** Items that ended in a second. */
  readonly rate: number | null;
  /** Seconds until the end, as far as is known. */
  readonly left: number | null;
  readonly slowest: ISlowest | null;
  readonly metric: string | null;
  /** Rows and columns of the cells that states and values are given for. */
  readonly grid: readonly [number, number];
  /** How many items that follow each other one cell stands for. */
  readonly perCell: number;
  /** The metric of each cell, the mean of its items'. */
  readonly values: ReadonlyArray<number | null>;
  /** The state of each cell, a letter each: that of its items which most wants to be seen. */
  readonly states: string;
  /** The first values of each name, as short texts. */
  readonly labels: ReadonlyArray<ReadonlyArray<string>>;
  readonly failed: ReadonlyArray<IFailedItem>;
}

/** Read an output's JSON, which may come from anybody's notebook; null if it is no picture that this page knows. */
export function readPicture(data: unknown): IPicture | null {
  const given = record(data);
  if (given.schema !== 1 || typeof given.execution !== 'string') {
    return null;
  }
  const counts = record(given.counts);
  const slowest = record(given.slowest);
  const shape = list(given.shape).map(whole);
  const total = typeof given.total === 'number' ? whole(given.total) : null;
  const states = text(given.states);
  const [rows, columns] = list(given.grid).map(whole);
  const perCell = Math.max(1, whole(given.per_cell));
  const isGrid =
    total !== null &&
    rows * columns === states.length &&
    rows * columns <= total &&
    rows * columns * perCell >= total;
  return {
    execution: given.execution,
    step: text(given.step),
    names: list(given.names).map(text),
    shape: total !== null && shape.reduce((all, each) => all * each, 1) === total ? shape : [],
    total,
    counts: {
      running: whole(counts.running),
      succeeded: whole(counts.succeeded),
      reused: whole(counts.reused),
      failed: whole(counts.failed),
      cancelled: whole(counts.cancelled)
    },
    rate: real(given.rate),
    left: real(given.left),
    slowest:
      real(slowest.seconds) === null
        ? null
        : {
            item: whole(slowest.item),
            label: text(slowest.label),
            seconds: real(slowest.seconds) ?? 0
          },
    metric: typeof given.metric === 'string' ? given.metric : null,
    grid: isGrid ? [rows, columns] : [0, 0],
    perCell,
    values: isGrid ? list(given.values).map(real) : [],
    states: isGrid ? states : '',
    labels: list(given.labels).map(axis => list(axis).map(text)),
    failed: list(given.failed)
      .map(each => (Array.isArray(each) ? each : []))
      .map(([item, label, why]) => ({ item: whole(item), label: text(label), why: text(why) }))
  };
}

/** How many items have ended. */
export function ended(counts: Omit<IItemCounts, 'running'>): number {
  return counts.succeeded + counts.reused + counts.failed + counts.cancelled;
}

/** Whether items are still to come. */
export function isUnfinished(picture: IPicture): boolean {
  return picture.total === null || ended(picture.counts) < picture.total;
}

/** The numbers of the line: a part is left out where there is nothing to say. */
export interface INumbers {
  readonly done: string;
  readonly share: string | null;
  readonly failed: string | null;
  /** What else is told, quietly. */
  readonly rest: ReadonlyArray<string>;
}

export function numbers(picture: IPicture): INumbers {
  const { total, counts, rate, left } = picture;
  const all = ended(counts);
  const unfinished = isUnfinished(picture);
  const rest: string[] = [];
  if (counts.reused) {
    rest.push(`${grouped(counts.reused)} reused`);
  }
  if (counts.cancelled) {
    rest.push(`${grouped(counts.cancelled)} cancelled`);
  }
  if (unfinished && counts.running) {
    rest.push(`${grouped(counts.running)} running`);
  }
  if (rate !== null && rate > 0) {
    rest.push(rateWords(rate));
  }
  if (unfinished && left !== null) {
    rest.push(leftWords(left));
  }
  return {
    done: total === null ? 'Counting the items …' : `${grouped(all)} of ${grouped(total)}`,
    share: unfinished && total ? `${Math.floor((100 * all) / total)} %` : null,
    failed: counts.failed ? `${grouped(counts.failed)} failed` : null,
    rest
  };
}

/** How fast items end: `9,310 a second`, `12 a minute`. */
export function rateWords(rate: number): string {
  if (rate >= 1) {
    return `${rate < 10 ? figure(Number(rate.toPrecision(2))) : grouped(Math.round(rate))} a second`;
  }
  const minute = rate * 60;
  return minute >= 1
    ? `${figure(Number(minute.toPrecision(2)))} a minute`
    : `${figure(Number((minute * 60).toPrecision(2)))} an hour`;
}

/** How long it still takes, as exactly as that is known: `about 1 s left`, `about 12 min left`. */
export function leftWords(seconds: number): string {
  const rounded = Math.max(1, Math.round(seconds));
  if (rounded < 90) {
    return `about ${rounded} s left`;
  }
  const minutes = Math.round(rounded / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${Math.round(minutes / 60)} h left`;
}

/** How long an item took: `412 ms`, `2.6 s`. */
export function secondsWords(seconds: number): string {
  if (seconds < 0.9995) {
    const ms = seconds * 1000;
    return `${ms < 10 ? figure(Number(ms.toPrecision(2))) : Math.round(ms)} ms`;
  }
  const whole = Math.round(seconds);
  return whole < 60
    ? `${seconds.toFixed(1)} s`
    : `${Math.floor(whole / 60)} min ${whole % 60 ? `${whole % 60} s` : ''}`.trim();
}

/** A step's line: `×16`, and what has become of its items while they are under way or where some failed. */
export function fanoutWords(
  fanout: Omit<IItemCounts, 'running'> & { readonly total: number | null },
  isUnderWay: boolean
): string {
  const { total } = fanout;
  if (total === null) {
    return '';
  }
  const parts = [`×${grouped(total)}`];
  const done = fanout.succeeded + fanout.reused;
  if (isUnderWay || done < total) {
    parts.push(`${grouped(done)} done`);
  }
  if (fanout.failed) {
    parts.push(`${grouped(fanout.failed)} failed`);
  }
  return parts.join(' · ');
}

/** A share of the bar, from 0 to 1. */
export interface IShare {
  readonly state: keyof IItemCounts | 'left';
  readonly share: number;
}

/** Share the bar among the states, and what has not begun. */
export function shares(counts: IItemCounts, total: number | null): ReadonlyArray<IShare> {
  const order = ['succeeded', 'reused', 'failed', 'cancelled', 'running'] as const;
  const sum = order.reduce((known, state) => known + counts[state], 0);
  const all = Math.max(total ?? 0, sum);
  return [
    ...order.map(state => ({ state, share: counts[state] / all })),
    { state: 'left' as const, share: (all - sum) / all }
  ].filter(({ share }) => share > 0);
}

/** An item's values as people read them: `UA, 0.001`, or its number where they are not known. */
export function labelOf(picture: IPicture, item: number): string {
  const { shape, labels } = picture;
  const given = picture.failed.find(each => each.item === item)?.label;
  if (given) {
    return given;
  }
  let rest = item;
  const parts: (string | undefined)[] = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    parts.unshift(labels[axis]?.[rest % shape[axis]]);
    rest = Math.floor(rest / shape[axis]);
  }
  return parts.length && parts.every(part => part !== undefined)
    ? parts.join(', ')
    : `item ${grouped(item)}`;
}

/** The items that a cell stands for, from the first to the one after the last. */
export function itemsOf({ grid, perCell, shape, total }: IPicture, cell: number): [number, number] {
  const [rows, columns] = grid;
  const all = total ?? 0;
  if (!rows || !columns || (shape.length > 1 && shape[0] !== rows)) {
    return [Math.min(all, cell * perCell), Math.min(all, (cell + 1) * perCell)];
  }
  const inRow = all / rows;
  const row = Math.floor(cell / columns);
  const first = (cell % columns) * perCell;
  return [row * inRow + first, row * inRow + Math.min(inRow, first + perCell)];
}

function stateOf({ states }: IPicture, cell: number): ItemState {
  const letter = states[cell] ?? 'q';
  return 'rsufc'.includes(letter) ? (letter as ItemState) : 'q';
}

const STATE_WORDS: { readonly [state in ItemState]: string } = {
  q: 'not begun',
  r: 'running',
  s: 'done',
  u: 'reused',
  f: 'failed',
  c: 'cancelled'
};

/** The squares of a heat map, and which cells of the picture each shows. */
export interface IGrid {
  readonly rows: number;
  readonly columns: number;
  /** Pixels from one square to the next. */
  readonly width: number;
  readonly height: number;
  /** Cells of each axis that one square shows. */
  readonly perRow: number;
  readonly perColumn: number;
  /** How many cells there are down and across, and by how much the numbers of neighbours differ. */
  readonly down: IAxis;
  readonly across: IAxis;
}

export interface IAxis {
  readonly count: number;
  readonly stride: number;
  /** What changes along it; null down a strip that is wrapped. */
  readonly name: string | null;
}

const SMALLEST = 3;
const LARGEST = 14;
const TALLEST = 300;
const STRIP = 120;

/**
 * Lay the cells out in a width, in pixels: the product of two names as rows and columns, the longer one across;
 * one name as a strip, which is wrapped where it is long. Where squares would be too small to see, each shows several
 * neighbours.
 */
export function layOutGrid(picture: IPicture, width: number): IGrid | null {
  const [rows, columns] = picture.grid;
  if (rows * columns === 0 || width < SMALLEST) {
    return null;
  }
  return rows > 1 && columns > 1
    ? layOutProduct(picture, rows, columns, width)
    : layOutStrip(picture, rows * columns, width);
}

function layOutProduct({ names }: IPicture, rows: number, columns: number, width: number): IGrid {
  const first = { count: rows, stride: columns, name: names[0] ?? null };
  const last = { count: columns, stride: 1, name: names.slice(1).join(', ') };
  const [down, across] = rows > columns ? [last, first] : [first, last];
  const perColumn = Math.ceil(across.count / Math.floor(width / SMALLEST));
  const perRow = Math.ceil(down.count / Math.floor(TALLEST / SMALLEST));
  const wide = Math.ceil(across.count / perColumn);
  const tall = Math.ceil(down.count / perRow);
  const height = Math.min(LARGEST, Math.floor(TALLEST / tall));
  const side = Math.min(Math.floor(width / wide), LARGEST, 3 * height);
  return {
    rows: tall,
    columns: wide,
    width: side,
    height: Math.min(height, 2 * side),
    perRow,
    perColumn,
    down,
    across
  };
}

function layOutStrip({ names, shape }: IPicture, cells: number, width: number): IGrid {
  let side = LARGEST;
  while (side > SMALLEST && Math.ceil(cells / Math.floor(width / side)) * side > STRIP) {
    side -= 1;
  }
  const most = Math.floor(width / side);
  const perColumn = Math.ceil(cells / (most * Math.floor(STRIP / side)));
  const squares = Math.ceil(cells / perColumn);
  const columns = Math.min(squares, most);
  const rows = Math.ceil(squares / columns);
  const varied = names.filter((_, at) => (shape[at] ?? 2) > 1);
  return {
    rows,
    columns,
    width: side,
    height: side,
    perRow: 1,
    perColumn,
    down: { count: rows, stride: columns * perColumn, name: null },
    across: {
      count: columns * perColumn,
      stride: 1,
      name: (varied.length ? varied : names).join(' and ')
    }
  };
}

/** The numbers of the cells that a square shows. */
export function cellsOf(grid: IGrid, row: number, column: number, cells: number): number[] {
  const found: number[] = [];
  const { down, across, perRow, perColumn } = grid;
  const lastRow = Math.min(down.count, (row + 1) * perRow);
  const lastColumn = Math.min(across.count, (column + 1) * perColumn);
  for (let at = row * perRow; at < lastRow; at++) {
    for (let beside = column * perColumn; beside < lastColumn; beside++) {
      const cell = at * down.stride + beside * across.stride;
      if (cell < cells) {
        found.push(cell);
      }
    }
  }
  return found;
}

/** What a square shows: of the states of its cells the one that most wants to be seen, and the mean of their values. */
export interface IHeat {
  readonly state: ItemState;
  readonly value: number | null;
}

const STRONGEST: ReadonlyArray<ItemState> = ['f', 'r', 'q', 'c', 's', 'u'];

export function heatOf(picture: IPicture, cells: ReadonlyArray<number>): IHeat {
  let sum = 0;
  let count = 0;
  let strongest = STRONGEST.length - 1;
  for (const cell of cells) {
    const value = picture.values[cell] ?? null;
    if (value !== null) {
      sum += value;
      count += 1;
    }
    strongest = Math.min(strongest, STRONGEST.indexOf(stateOf(picture, cell)));
  }
  return { state: STRONGEST[strongest], value: count ? sum / count : null };
}

export interface IRange {
  readonly low: number;
  readonly high: number;
  /** Whether single values lie beyond: the colours are for the bulk of them. */
  readonly isCut: boolean;
}

/** The values that the colours span: all, but for the last hundredth at each end where one would take all colours. */
export function rangeOf(values: ReadonlyArray<number | null>): IRange | null {
  const known = values.filter((value): value is number => value !== null).sort((a, b) => a - b);
  if (!known.length) {
    return null;
  }
  const at = (share: number) => known[Math.round(share * (known.length - 1))];
  const all = { low: known[0], high: known[known.length - 1] };
  const bulk = { low: at(0.01), high: at(0.99) };
  const isCut = known.length >= 100 && all.high - all.low > 4 * (bulk.high - bulk.low);
  return { ...(isCut && bulk.high > bulk.low ? bulk : all), isCut: isCut && bulk.high > bulk.low };
}

/** Where a value stands between the ends of a range, from 0 to 1; the middle where all are the same. */
export function positionOf(value: number, { low, high }: IRange): number {
  return high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0.5;
}

/** Red, green and blue, from 0 to 255. */
export type Colour = readonly [number, number, number];

/** Mix two colours: the first at 0, the second at 1. */
export function mix(one: Colour, other: Colour, share: number): Colour {
  const between = (at: 0 | 1 | 2) => Math.round(one[at] + (other[at] - one[at]) * share);
  return [between(0), between(1), between(2)];
}

/** How much of the strong colour there is at the weak end of the ramp: it must differ from no value at all. */
const WEAKEST = 0.16;

/** The colour of a place on the ramp from the ground to a strong colour. */
export function rampColour(ground: Colour, strong: Colour, position: number): Colour {
  return mix(ground, strong, WEAKEST + (1 - WEAKEST) * position);
}

/** What a square is called when it is pointed at. */
export function squareWords(picture: IPicture, cells: ReadonlyArray<number>): string {
  if (!cells.length) {
    return '';
  }
  const { metric, failed } = picture;
  const [first] = itemsOf(picture, cells[0]);
  const last = itemsOf(picture, cells[cells.length - 1])[1] - 1;
  const count = cells.reduce((sum, cell) => {
    const [from, to] = itemsOf(picture, cell);
    return sum + to - from;
  }, 0);
  const { state, value } = heatOf(picture, cells);
  if (count === 1) {
    const why = failed.find(each => each.item === first)?.why;
    const said =
      value !== null && metric && (state === 's' || state === 'u')
        ? `${metric} ${figure(value)}${state === 'u' ? ', reused' : ''}`
        : why
          ? `failed: ${why}`
          : STATE_WORDS[state];
    return `${plainly(labelOf(picture, first))} · ${said}`;
  }
  const parts = [
    `${grouped(count)} items, ${plainly(`${labelOf(picture, first)} to ${labelOf(picture, last)}`)}`,
    value !== null && metric
      ? `${metric} ${figure(Number(value.toPrecision(4)))} on average`
      : state === 'f'
        ? ''
        : STATE_WORDS[state],
    state === 'f' ? 'with failed ones' : ''
  ];
  return parts.filter(Boolean).join(' · ');
}

/** The item that a click on a square opens: the first that is known to have failed, else the first. */
export function itemToOpen(picture: IPicture, cells: ReadonlyArray<number>): number | null {
  if (!cells.length) {
    return null;
  }
  const ranges = cells.map(cell => itemsOf(picture, cell));
  const failed = picture.failed.find(({ item }) =>
    ranges.some(([from, to]) => from <= item && item < to)
  );
  return failed?.item ?? ranges[0][0];
}

function grouped(value: number): string {
  return value.toLocaleString('en-US');
}

function record(value: unknown): { readonly [name: string]: unknown } {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as { readonly [name: string]: unknown })
    : {};
}

function list(value: unknown): ReadonlyArray<unknown> {
  return Array.isArray(value) ? value : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : '';
}

function whole(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? Math.max(0, Math.floor(value)) : 0;
}

function real(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}
