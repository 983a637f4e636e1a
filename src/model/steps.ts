/**
 * The steps of one open notebook: their graph, drawn from names, and what each did last in this kernel.
 */

import { IDisposable } from '@lumino/disposable';
import { Debouncer, Throttler } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { ICellText, IDashboard, IExecution, IGraph, INews } from '../api/schema';
import type { IPicture } from './fanout';
import { figure } from './format';
import { cellsToRun, outOfDate, RanCells } from './freshness';
import { Origins } from './origins';

export type State = IExecution['state'];

const TYPING = 400;
/** Milliseconds between two questions for dashboards. */
const DASHBOARDS = 15000;

/** What a kernel says of itself when the page greets it. */
export type KernelKind = 'unknown' | 'other' | 'lacks-mlbench' | 'not-loaded' | 'loaded';

export class StepsModel implements IDisposable {
  constructor(
    private _client: Client,
    news: NewsFeed
  ) {
    news.arrived.connect(this._onNews, this);
    this._origins = new Origins(_client, () => this._changed.emit());
  }

  /** Emitted when anything that is shown has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Emitted when the kernel has ended or begun anew and steps of it go on. */
  get wentOn(): ISignal<this, ReadonlyArray<IExecution>> {
    return this._wentOn;
  }

  /** Emitted when an execution of one of the cells has changed. */
  get executionChanged(): ISignal<this, IExecution> {
    return this._executionChanged;
  }

  get graph(): IGraph | null {
    return this._graph;
  }

  get error(): string | null {
    return this._error;
  }

  get kernel(): string | null {
    return this._kernel;
  }

  get path(): string {
    return this._path;
  }

  get kernelKind(): KernelKind {
    return this._kernelKind;
  }

  set kernelKind(kind: KernelKind) {
    if (kind !== this._kernelKind) {
      this._kernelKind = kind;
      this._changed.emit();
    }
  }

  /** The cell that the cursor is in. */
  get activeCell(): string | null {
    return this._activeCell;
  }

  set activeCell(cell: string | null) {
    if (cell !== this._activeCell) {
      this._activeCell = cell;
      this._changed.emit();
    }
  }

  /** The step that the cell which runs now waits for, if the kernel said so. */
  get waitsFor(): string | null {
    return this._waitsFor;
  }

  set waitsFor(execution: string | null) {
    if (execution !== this._waitsFor) {
      this._waitsFor = execution;
      this._changed.emit();
    }
  }

  /** The dashboards of the clusters that steps run on, as far as they can be reached from here. */
  get dashboards(): ReadonlyArray<IDashboard> {
    return this._dashboards;
  }

  /** The steps that go on though the kernel which ran them was restarted or shut down. */
  get left(): ReadonlyArray<IExecution> {
    return [...this._left.values()];
  }

  /** Note that the kernel's variables are gone; its steps go on. */
  leaveSteps(): void {
    this._ran.forget(true);
    for (const execution of this._executions.values()) {
      if (isUnderWay(execution)) {
        this._left.set(execution.id, execution);
      }
    }
    this._emit();
    if (this._left.size) {
      this._wentOn.emit(this.left);
    }
  }

  /** Whether the document is a copy of the one that its kernel runs. */
  get isCopy(): boolean {
    return this._isCopy;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** The notebook's id under which its kernel ran it last, if it did: one that was not saved may carry none by now. */
  get ranAs(): string | null {
    return this._ranAs;
  }

  set ranAs(notebookId: string | null) {
    this._ranAs = notebookId;
  }

  /** What a cell did last in this kernel. */
  executionOf(cell: string): IExecution | undefined {
    return this._executions.get(cell);
  }

  execution(id: string): IExecution | undefined {
    for (const execution of this._executions.values()) {
      if (execution.id === id) {
        return execution;
      }
    }
    return undefined;
  }

  /** The steps that an execution still waits for, by name. */
  waiting(execution: IExecution): string[] {
    return execution.parents
      .map(id => this.execution(id))
      .filter((parent): parent is IExecution => parent !== undefined && isUnderWay(parent))
      .map(parent => parent.step);
  }

  /** The run that an execution was reused from, once the server has said which. */
  reusedFrom(execution: IExecution): string | null {
    return this._origins.runOf(execution, this._path);
  }

  /** How far a cell's execution is: at which attempt, and what it says of itself while it runs. */
  howFar(cell: string): string {
    const execution = this._executions.get(cell);
    if (!execution) {
      return '';
    }
    const source = this._cells.find(each => each.id === cell)?.source;
    const said = isUnderWay(execution) ? this._progress.get(execution.id) : undefined;
    return [said && progressWords(said), attemptWords(execution, source)]
      .filter(Boolean)
      .join(' · ');
  }

  /** Why the last execution of a cell no longer holds; undefined while it does. */
  staleness(cell: string): string | undefined {
    if (this._stale === null) {
      this._stale = this._graph ? outOfDate(this._graph, this._executionOf, this._ran) : new Map();
    }
    return this._stale.get(cell);
  }

  /** The cells that *Run what changed* would run, in order. */
  get toRun(): ReadonlyArray<string> {
    if (this._toRun === null) {
      this._toRun =
        this._graph && !this._isCopy
          ? cellsToRun(this._cells, this._graph, this._executionOf, this._ran)
          : [];
    }
    return this._toRun;
  }

  /** Note that a cell is run, as it is written now. */
  noteRun(cell: string, source: string): void {
    this._ran.note(cell, source, stepName(source) !== null);
    if (this._graph) {
      this._graph = { ...this._graph, edited: this._graph.edited.filter(each => each !== cell) };
    }
    this._emit();
    this.redraw();
  }

  /** Note that the kernel had run no cell before those that this page has run in it, which may be under way by now. */
  noteFresh(): void {
    const isOurs = [...this._executions.keys()].every(cell => this._ran.hasRun(cell));
    if (!this._ran.isComplete && isOurs) {
      this._ran.complete();
      this._emit();
    }
  }

  /** Take how far a fan-out is from the picture under its cell, which is newer than the news. */
  takePicture(picture: IPicture): void {
    for (const [cell, known] of this._executions) {
      if (known.id === picture.execution && isUnderWay(known)) {
        const fanout = {
          seconds: 0,
          skipped: 0,
          ...known.fanout,
          ...picture.counts,
          names: picture.names,
          shape: picture.shape,
          total: picture.total,
          slowest: picture.slowest?.item ?? null,
          slowest_seconds: picture.slowest?.seconds ?? null,
          metric: picture.metric
        };
        this._executions.set(cell, { ...known, fanout });
        this._changed.emit();
      }
    }
  }

  /** Take the cells as they stand now; the graph follows when the typing stops. */
  setCells(cells: ReadonlyArray<ICellText>): void {
    this._cells = cells;
    this._toRun = null;
    this.redraw();
  }

  /** Ask for the graph again. */
  redraw(): void {
    void this._redraw.invoke().catch(() => undefined);
  }

  setPath(path: string): void {
    if (path !== this._path) {
      this._path = path;
      this._changed.emit();
    }
  }

  /** Take another kernel, or the same one again after a loss. */
  setKernel(kernel: string | null): void {
    if (kernel !== this._kernel) {
      this.leaveSteps();
      this._kernel = kernel;
      this._executions.clear();
      this._ran.forget(false);
      this._isCopy = false;
      this._ranAs = null;
      this._waitsFor = null;
      this._emit();
    }
  }

  /** Ask what the cells did last, without their messages. */
  async refresh(): Promise<void> {
    const kernel = this._kernel;
    if (!kernel || !this._cells.length) {
      return;
    }
    const cells = this._cells.map(cell => cell.id);
    const answer = await this._client.outputs({ kernel, cells, path: this._path, messages: false });
    if (this._isDisposed || kernel !== this._kernel) {
      return;
    }
    this._isCopy = answer.copied;
    this._ranAs = answer.notebook_id;
    for (const [cell, execution] of Object.entries(answer.outputs)) {
      this._take(cell, execution);
    }
    this._emit();
    this.redraw();
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._redraw.dispose();
      this._askDashboards.dispose();
      Signal.clearData(this);
    }
  }

  private _onNews(_: NewsFeed, news: INews): void {
    if (news.type === 'changed' || news.type === 'reset') {
      if (this._error) {
        this.redraw();
      }
      for (const { id } of this.left) {
        this._client.execution(id, this._path).then(
          execution => this._followLeft(execution),
          error => console.warn(sentence(error))
        );
      }
      this.refresh().catch(error => console.warn(sentence(error)));
      return;
    }
    if (news.type !== 'execution') {
      return;
    }
    const execution = news.body.execution as unknown as IExecution;
    const progress = news.body.progress as unknown as IProgress | undefined;
    if (progress) {
      this._progress.set(execution.id, progress);
    } else if (!isUnderWay(execution)) {
      this._progress.delete(execution.id);
    }
    this._followLeft(execution);
    if (news.kernel !== this._kernel || this._isCopy) {
      return;
    }
    if (execution.cell && this._cells.some(cell => cell.id === execution.cell)) {
      this._take(execution.cell, execution);
      this._emit();
    }
  }

  private _take(cell: string, execution: IExecution): void {
    const known = this._executions.get(cell);
    if (known && known.id !== execution.id && (known.queued ?? 0) > (execution.queued ?? 0)) {
      return;
    }
    if (known?.id === execution.id && !isUnderWay(known) && isUnderWay(execution)) {
      return;
    }
    if (known && isTakenOver(execution) && execution.reused_from === originOf(known)) {
      return; // the next run of this kernel stands on what is shown already
    }
    this._executions.set(cell, execution);
    if (execution.state === 'running') {
      void this._askDashboards.invoke().catch(() => undefined);
    }
    if (execution.source !== null) {
      this._ran.recall(cell, execution.source);
    }
    this._followLeft(execution);
    this._executionChanged.emit(execution);
  }

  private _followLeft(execution: IExecution): void {
    if (!this._isDisposed && !isUnderWay(execution) && this._left.delete(execution.id)) {
      this._executionChanged.emit(execution);
      this._changed.emit();
    }
  }

  private async _draw(): Promise<void> {
    const ticket = ++this._ticket;
    try {
      const steps = this._cells.some(cell => cell.source.includes('%%step'));
      const cells = this._cells.map(cell => ({
        ...cell,
        ran: this._ran.sourceOf(cell.id) ?? null
      }));
      const graph = steps ? await this._client.graph(cells) : NO_STEPS;
      if (this._isDisposed || ticket !== this._ticket) {
        return;
      }
      this._graph = graph;
      this._error = null;
    } catch (error) {
      if (this._isDisposed || ticket !== this._ticket) {
        return;
      }
      this._error = sentence(error);
    }
    this._emit();
  }

  /** A step that runs has opened its cluster: that may have a dashboard. */
  private async _findDashboards(): Promise<void> {
    try {
      const found = await this._client.dashboards();
      if (!this._isDisposed && JSON.stringify(found) !== JSON.stringify(this._dashboards)) {
        this._dashboards = found;
        this._changed.emit();
      }
    } catch (error) {
      console.warn(sentence(error));
    }
  }

  /** Tell of a change of what is known of steps or cells: what is told from that is told anew. */
  private _emit(): void {
    this._stale = null;
    this._toRun = null;
    this._changed.emit();
  }

  private _executionOf = (cell: string): IExecution | undefined => this._executions.get(cell);

  private _askDashboards = new Throttler(() => this._findDashboards(), {
    limit: DASHBOARDS,
    edge: 'leading'
  });
  private _activeCell: string | null = null;
  private _cells: ReadonlyArray<ICellText> = [];
  private _changed = new Signal<this, void>(this);
  private _dashboards: ReadonlyArray<IDashboard> = [];
  private _error: string | null = null;
  private _executionChanged = new Signal<this, IExecution>(this);
  private _executions = new Map<string, IExecution>();
  private _graph: IGraph | null = null;
  private _isCopy = false;
  private _isDisposed = false;
  private _kernel: string | null = null;
  private _kernelKind: KernelKind = 'unknown';
  private _left = new Map<string, IExecution>();
  private _origins: Origins;
  private _path = '';
  private _ran = new RanCells();
  private _progress = new Map<string, IProgress>();
  private _ranAs: string | null = null;
  private _redraw = new Debouncer(() => this._draw(), TYPING);
  private _stale: ReadonlyMap<string, string> | null = null;
  private _ticket = 0;
  private _toRun: ReadonlyArray<string> | null = null;
  private _waitsFor: string | null = null;
  private _wentOn = new Signal<this, ReadonlyArray<IExecution>>(this);
}

const NO_STEPS: IGraph = { steps: [], problems: [], edited: [] };

/** The execution that made what an execution stands for. */
export function originOf(execution: IExecution): string {
  return execution.reused_from ?? execution.id;
}

/** Whether an execution only stands for that of its kernel's run before: it took no time at all. */
export function isTakenOver(execution: IExecution): boolean {
  return execution.state === 'reused' && execution.queued === execution.ended;
}

/** One line about the steps that go on without their kernel. */
export function goesOn(steps: ReadonlyArray<IExecution>): string {
  const names = [...new Set(steps.map(each => each.step))];
  return `The kernel has ended; ${names.join(', ')} ${names.length > 1 ? 'go' : 'goes'} on.`;
}

export function isUnderWay(record: { readonly state: State }): boolean {
  return record.state === 'queued' || record.state === 'running';
}

/** How much of its work a step says it has done, of how much if that is known. */
export interface IProgress {
  readonly done: number;
  readonly total: number | null;
}

/** How far a step says it is: `12 of 60`. */
export function progressWords({ done, total }: IProgress): string {
  return total === null ? `${figure(done)} done` : `${figure(done)} of ${figure(total)}`;
}

/** Which attempt an execution is at, of how many where its cell says so: `attempt 2 of 3`. Empty for a first one alone. */
export function attemptWords({ attempt }: { readonly attempt: number }, source = ''): string {
  const line = /^\s*%%step\b(.*)/.exec(source)?.[1] ?? '';
  const retries = Number(/(?:^|\s)--retries(?:\s+|=)(\d+)/.exec(line)?.[1] ?? 0);
  return attempt > 1 ? `attempt ${attempt}${retries ? ` of ${retries + 1}` : ''}` : '';
}

/** The name on a cell's `%%step` line, or null for a plain cell. */
export function stepName(source: string): string | null {
  const found = /^\s*%%step[ \t]+(?:(?:--?\S+)[ \t]+)*([^\s-]\S*)/.exec(source);
  return found ? found[1] : /^\s*%%step\b/.test(source) ? '' : null;
}
