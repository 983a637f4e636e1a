/**
 * What has changed since a step ran, told from names and sources: its own code, the cells that feed it, what it read.
 */

import type { IExecution, IGraph, IGraphStep } from '../api/schema';

const HELD = new Set<IExecution['state']>(['succeeded', 'reused']);
const UNDER_WAY = new Set<IExecution['state']>(['queued', 'running']);

/** The cells that a kernel has run, as they were written then. */
export class RanCells {
  /** Whether the kernel has run nothing that this page does not know of. */
  get isComplete(): boolean {
    return this._isComplete;
  }

  /** The source that a cell was last run with; undefined if this page does not know. */
  sourceOf(cell: string): string | undefined {
    return this._sources.get(cell);
  }

  /** Note that a cell is run; a step is given what the other cells have bound until now. */
  note(cell: string, source: string, isStep: boolean): void {
    this._sources.set(cell, source);
    if (isStep) {
      this._given.set(cell, new Map(this._sources));
    }
  }

  /** Whether a step was run here. */
  hasRun(step: string): boolean {
    return this._given.has(step);
  }

  /** Note that the kernel had run nothing before what is noted here. */
  complete(): void {
    this._isComplete = true;
  }

  /** Take the source of a step that ran when this page was not there. */
  recall(cell: string, source: string): void {
    if (!this._sources.has(cell)) {
      this._sources.set(cell, source);
    }
  }

  /** Whether a plain cell has been run otherwise than it was when a step took its names. */
  hasMovedOn(plain: string, step: string): boolean {
    const given = this._given.get(step)?.get(plain);
    return given !== undefined && given !== this._sources.get(plain);
  }

  /** Forget all: the kernel begins anew. `isComplete` is false where others may have run cells in it already. */
  forget(isComplete: boolean): void {
    this._sources.clear();
    this._given.clear();
    this._isComplete = isComplete;
  }

  private _given = new Map<string, ReadonlyMap<string, string>>();
  private _isComplete = false;
  private _sources = new Map<string, string>();
}

export type ExecutionOf = (cell: string) => IExecution | undefined;

/** Return, for the cells of steps whose results no longer hold, why that is so. */
export function outOfDate(
  graph: IGraph,
  executionOf: ExecutionOf,
  ran: RanCells
): ReadonlyMap<string, string> {
  const edited = new Set(graph.edited);
  const byName = new Map(graph.steps.map(step => [step.name, step]));
  const found = new Map<string, string>();
  const needs = new Map<string, string>();
  for (const step of graph.steps) {
    const execution = executionOf(step.cell);
    const parent = step.parents.find(each => needs.has(each.step));
    const state = execution?.state;
    if (!execution || !state || !HELD.has(state)) {
      if (state && !UNDER_WAY.has(state)) {
        needs.set(step.name, `${step.name} ${state === 'failed' ? 'failed' : `was ${state}`}`);
      }
      continue;
    }
    const why = edited.has(step.cell)
      ? 'its code has changed since'
      : (fedOtherwise(step, edited, ran) ??
        readOtherwise(execution, byName, executionOf) ??
        (parent ? needs.get(parent.step) : undefined));
    if (why !== undefined) {
      found.set(step.cell, why);
      needs.set(step.name, `${step.name} is out of date`);
    }
  }
  return found;
}

function fedOtherwise(
  step: IGraphStep,
  edited: ReadonlySet<string>,
  ran: RanCells
): string | undefined {
  return step.cells.some(cell => edited.has(cell) || ran.hasMovedOn(cell, step.cell))
    ? 'a cell whose names it takes has changed since'
    : undefined;
}

function readOtherwise(
  execution: IExecution,
  byName: ReadonlyMap<string, IGraphStep>,
  executionOf: ExecutionOf
): string | undefined {
  for (const read of execution.reads) {
    const parent = read.step === null ? undefined : byName.get(read.step);
    const now = parent && executionOf(parent.cell);
    if (!now || !HELD.has(now.state)) {
      continue;
    }
    if (read.execution === now.id || read.execution === now.reused_from) {
      continue;
    }
    const digest = now.binds.find(each => each.name === read.name)?.artifact?.digest;
    if (digest && read.digest && digest !== read.digest) {
      return `${read.name} of ${read.step} has changed since`;
    }
  }
  return undefined;
}

/**
 * Return the cells that *Run what changed* runs, in the order of the notebook: steps that are out of date, have not
 * run or did not succeed, with all that wait for them, and the plain cells above them that the kernel lacks.
 *
 * @param cells - the code cells of the notebook, in order.
 */
export function cellsToRun(
  cells: ReadonlyArray<{ readonly id: string; readonly source: string }>,
  graph: IGraph,
  executionOf: ExecutionOf,
  ran: RanCells
): ReadonlyArray<string> {
  const stale = outOfDate(graph, executionOf, ran);
  const edited = new Set(graph.edited);
  const wanted = new Set<string>();
  const names = new Set<string>();
  for (const step of graph.steps) {
    const state = executionOf(step.cell)?.state;
    const isLost = ran.isComplete && ran.sourceOf(step.cell) === undefined;
    const isDue =
      isLost ||
      state === undefined ||
      stale.has(step.cell) ||
      (!HELD.has(state) && !UNDER_WAY.has(state)) ||
      step.parents.some(parent => names.has(parent.step));
    if (isDue) {
      wanted.add(step.cell);
      names.add(step.name);
    }
  }
  if (!wanted.size) {
    return [];
  }
  const steps = new Set(graph.steps.map(step => step.cell));
  const last = cells.reduce((at, cell, index) => (wanted.has(cell.id) ? index : at), 0);
  return cells
    .filter((cell, index) => {
      if (steps.has(cell.id)) {
        return wanted.has(cell.id);
      }
      const isLacking = ran.isComplete && ran.sourceOf(cell.id) === undefined;
      const isPlain = !/^\s*%%step\b/.test(cell.source) && cell.source.trim() !== '';
      return index < last && isPlain && (isLacking || edited.has(cell.id));
    })
    .map(cell => cell.id);
}
