/**
 * One open notebook: it greets the kernel, marks the cells of steps, and puts late output where it belongs.
 */

import type { Cell, ICodeCellModel } from '@jupyterlab/cells';
import { NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import type { PartialJSONObject } from '@lumino/coreutils';
import { IDisposable } from '@lumino/disposable';
import { Throttler } from '@lumino/polling';
import { Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IExecution } from '../api/schema';
import { FANOUT_MIME, readPicture } from '../model/fanout';
import { millis } from '../model/format';
import { LateOutput, sameOutputs } from '../model/outputs';
import { isUnderWay, stepName, StepsModel } from '../model/steps';
import { CellMark, IMarkOptions, putInto } from './cellmarks';
import { greet, lateOutput, mayBePython, waitsFor } from './kernel';
import type { ICurrentNotebook } from './sidebar';

export interface INotebookOptions {
  readonly client: Client;
  readonly news: NewsFeed;
  readonly openExecution: (execution: string | null, run: string, path: string) => void;
  readonly localPath: (path: string) => string;
  readonly report: (message: string) => void;
  /** The notebook's kernel has ended or begun anew, and these steps go on. */
  readonly wentOn: (steps: ReadonlyArray<IExecution>, cancel: () => void) => void;
}

const METADATA = 'mlbench';
const LOAD = '%load_ext mlbench';
const LETTERS = 'abcdefghijklmnopqrstuvwxyz234567';

/** Pauses, in milliseconds, after which a step whose wait was ended is asked to go on. */
const KEEP_AFTER = [150, 350, 700, 1200];

export class OpenNotebook implements IDisposable, ICurrentNotebook {
  constructor(
    readonly panel: NotebookPanel,
    private _options: INotebookOptions
  ) {
    this.steps = new StepsModel(_options.client, _options.news);
    this.steps.changed.connect(this._draw, this);
    this.steps.executionChanged.connect(this._onExecution, this);
    this.steps.wentOn.connect((_, steps) => {
      this._joinAgain(steps);
      _options.wentOn(steps, () => steps.forEach(({ id }) => this.cancel(id)));
    });
    const { content, sessionContext, context } = panel;
    content.cellInViewportChanged.connect(this._onViewport, this);
    content.activeCellChanged.connect(this._onActiveCell, this);
    content.modelContentChanged.connect(this._onContent, this);
    sessionContext.kernelChanged.connect(this._onKernel, this);
    sessionContext.connectionStatusChanged.connect(this._onConnection, this);
    sessionContext.statusChanged.connect(this._onStatus, this);
    sessionContext.iopubMessage.connect(this._onMessage, this);
    context.pathChanged.connect(this._onPath, this);
    NotebookActions.executionScheduled.connect(this._onScheduled, this);
    NotebookActions.executed.connect(this._onExecuted, this);
    panel.disposed.connect(this.dispose, this);
    this.steps.setPath(this.path);
    void context.ready.then(() => {
      if (!this._isDisposed) {
        this._onContent();
        this._askWhose();
        this._take(sessionContext.session?.kernel ?? null);
      }
    });
  }

  readonly steps: StepsModel;

  get path(): string {
    return this._options.localPath(this.panel.context.path);
  }

  get notebookId(): string | null {
    const found = this.panel.model?.getMetadata(METADATA) as { id?: unknown } | undefined;
    return typeof found?.id === 'string' ? found.id : null;
  }

  get hasSteps(): boolean {
    return this._cells().some(cell => stepName(cell.source) !== null);
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /**
   * Return the notebook's id in its metadata, which is written if there is none, or that of what it was copied from:
   * the one that its kernel ran it under before it was opened again unsaved, or a new one.
   */
  ensureId(): string {
    const known = this.notebookId;
    if (known && known !== this._foreignId) {
      return known;
    }
    const ranAs = known ? null : this.steps.ranAs;
    const bytes = crypto.getRandomValues(new Uint8Array(26));
    const id = ranAs ?? [...bytes].map(byte => LETTERS[byte % 32]).join('');
    const metadata = this.panel.model?.getMetadata(METADATA) as PartialJSONObject | undefined;
    this.panel.model?.setMetadata(METADATA, { ...metadata, id });
    return id;
  }

  /** Bring a cell into view and make it the active one. */
  goTo(cell: string): void {
    const { content } = this.panel;
    const at = content.widgets.findIndex(each => each.model.id === cell);
    if (at >= 0) {
      content.activeCellIndex = at;
      content.deselectAll();
      void content.scrollToItem(at, 'smart');
      content.activate();
    }
  }

  /** Insert the cell that loads mlbench, above the first step. */
  insertLoad(): void {
    const { content } = this.panel;
    const first = this._cells().findIndex(cell => stepName(cell.source) !== null);
    const cells = content.model?.sharedModel;
    if (!cells) {
      return;
    }
    const at = Math.max(
      0,
      content.widgets.findIndex(each => each.model.id === this._cells()[first]?.id)
    );
    cells.insertCell(at, { cell_type: 'code', source: LOAD, metadata: {} });
    content.activeCellIndex = at;
  }

  /** Run the cells of steps that are out of date, have not run or did not succeed, and what they lack. */
  runWhatChanged(): void {
    this.runCells(this.steps.toRun);
  }

  /** Run a cell and all below it. */
  runFrom(cell: string): void {
    const { widgets } = this.panel.content;
    const at = widgets.findIndex(each => each.model.id === cell);
    if (at >= 0) {
      this.runCells(widgets.slice(at).map(each => each.model.id));
    }
  }

  /** Run cells in the order of the notebook; the active cell stays the active one. */
  runCells(ids: ReadonlyArray<string>): void {
    const { content, sessionContext } = this.panel;
    const wanted = new Set(ids);
    const cells = content.widgets.filter(cell => wanted.has(cell.model.id));
    if (cells.length) {
      NotebookActions.runCells(content, cells, sessionContext).catch(error =>
        this._options.report(sentence(error))
      );
    }
  }

  /** Cancel a step's execution. */
  cancel(execution: string): void {
    this._options.client
      .cancelExecution(execution)
      .catch(error => this._options.report(sentence(error)));
  }

  /** Write `%%step` on top of the active cell. */
  turnIntoStep(): void {
    const { content } = this.panel;
    const cell = content.activeCell;
    if (cell?.model.type !== 'code' || stepName(cell.model.sharedModel.getSource()) !== null) {
      return;
    }
    const shared = cell.model.sharedModel;
    shared.setSource(`%%step name\n${shared.getSource()}`);
    content.mode = 'edit';
    cell.editor?.setSelection({ start: { line: 0, column: 7 }, end: { line: 0, column: 11 } });
  }

  /** What installs mlbench into a kernel's environment. */
  setInstall(line: string): void {
    this._install = line;
    this._draw();
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this._marks.forEach(mark => mark.dispose());
    this._marks.clear();
    this._sendDocument.dispose();
    this.steps.dispose();
    Signal.clearData(this);
  }

  // The cells.

  private _cells(): { id: string; source: string; tags: string[] }[] {
    const cells = this.panel.content.model?.cells;
    if (!cells) {
      return [];
    }
    return [...cells]
      .filter(cell => cell.type === 'code')
      .map(cell => {
        const tags = cell.getMetadata('tags') as unknown;
        return {
          id: cell.id,
          source: cell.sharedModel.getSource(),
          tags: Array.isArray(tags) ? tags.map(String) : []
        };
      });
  }

  private _onContent(): void {
    const cells = this._cells();
    const same =
      cells.length === this._known.length &&
      cells.every(
        (cell, at) =>
          cell.id === this._known[at].id &&
          cell.source === this._known[at].source &&
          cell.tags.join() === this._known[at].tags.join()
      );
    if (same) {
      return;
    }
    const before = this._known.map(cell => cell.id).join();
    this._known = cells;
    this.steps.setCells(cells);
    this._markCells();
    if (before && before !== cells.map(cell => cell.id).join() && this.hasSteps) {
      this._tellDocument(); // the failed step of a cell that is deleted holds back nobody
    }
  }

  private _onActiveCell(): void {
    this.steps.activeCell = this.panel.content.activeCell?.model.id ?? null;
  }

  private _onViewport(_: unknown, cell: Cell): void {
    this._mark(cell);
  }

  private _markCells(): void {
    for (const cell of this.panel.content.widgets) {
      this._mark(cell);
    }
    const ids = new Set(this._known.map(cell => cell.id));
    for (const [id, mark] of this._marks) {
      if (!ids.has(id)) {
        mark.dispose();
        this._marks.delete(id);
      }
    }
  }

  private _mark(cell: Cell): void {
    if (cell.model.type !== 'code' || cell.isDisposed) {
      return;
    }
    const id = cell.model.id;
    const known = this._marks.get(id);
    if (stepName(cell.model.sharedModel.getSource()) === null) {
      known?.dispose();
      this._marks.delete(id);
      return;
    }
    if (known && !known.isDisposed && known.parent === cell) {
      return;
    }
    known?.dispose();
    const mark = new CellMark(
      id,
      () => this._markOptions(),
      () => this._noticeCell() === id
    );
    if (putInto(cell, mark)) {
      this._marks.set(id, mark);
    } else {
      mark.dispose();
    }
  }

  /** The cell that carries the line about what the kernel lacks: the first step's, or one that was run in vain. */
  private _noticeCell(): string | null {
    const cells = this._known;
    if (this.steps.kernelKind === 'not-loaded' && cells.some(cell => loads(cell.source))) {
      return this._ranInVain;
    }
    return cells.find(cell => stepName(cell.source) !== null)?.id ?? null;
  }

  private _markOptions(): IMarkOptions {
    return {
      steps: this.steps,
      install: this._install,
      onOpen: (execution, run) => this._options.openExecution(execution, run, this.path),
      onOpenRun: run => this._options.openExecution(null, run, this.path),
      onCancel: execution => this.cancel(execution),
      onStopWaiting: execution => {
        this._stopWaiting(execution).catch(error => this._options.report(sentence(error)));
      },
      hasLoad: this._known.some(cell => loads(cell.source)),
      onInsertLoad: () => this.insertLoad(),
      onRunLoad: () => {
        const load = this._known.find(cell => loads(cell.source));
        this.runCells([load?.id, this._ranInVain].filter((id): id is string => !!id));
      }
    };
  }

  private _draw(): void {
    this._marks.forEach(mark => mark.update());
  }

  // The kernel.

  private _onKernel(): void {
    this._take(this.panel.sessionContext.session?.kernel ?? null);
  }

  private _take(kernel: Kernel.IKernelConnection | null): void {
    this._late.clear();
    this.steps.setKernel(kernel?.id ?? null);
    this.steps.kernelKind = 'unknown';
    this._greet();
    this._restore();
  }

  private _onConnection(_: unknown, status: Kernel.ConnectionStatus): void {
    if (status === 'connected') {
      this._greet();
      this._restore();
    }
  }

  private _onStatus(_: unknown, status: Kernel.Status): void {
    const restarted = this._status === 'restarting' || this._status === 'autorestarting';
    this._status = status;
    if (status === 'restarting' || status === 'autorestarting') {
      this.steps.waitsFor = null;
      this.steps.kernelKind = 'unknown';
      this._ranInVain = null;
      this.steps.leaveSteps();
    } else if (restarted) {
      this._greet();
    }
  }

  private _greet(): void {
    const kernel = this.panel.sessionContext.session?.kernel;
    if (!kernel || kernel.isDisposed || !mayBePython(this.panel.sessionContext)) {
      return;
    }
    greet(kernel, this.notebookId).then(
      ({ kind, isFresh }) => {
        if (!this._isDisposed && kernel.id === this.steps.kernel) {
          this._ranInVain = kind === 'not-loaded' ? this._ranInVain : null;
          this.steps.kernelKind = kind;
          if (isFresh) {
            this.steps.noteFresh();
          }
        }
      },
      () => {
        // The connection went before the answer came: the next one is greeted again.
      }
    );
  }

  private _onExecuted(
    _: unknown,
    args: { notebook: unknown; cell: Cell; success?: boolean }
  ): void {
    const { id, sharedModel } = args.cell.model;
    const isStep = stepName(sharedModel.getSource()) !== null;
    if (args.success === false && isStep && this.steps.kernelKind === 'not-loaded') {
      this._ranInVain = id;
      this._draw();
    }
    if (
      args.notebook === this.panel.content &&
      this.steps.kernelKind !== 'loaded' &&
      this.hasSteps
    ) {
      this._greet();
    }
  }

  private _onPath(): void {
    this.steps.setPath(this.path);
    this._askWhose();
  }

  /** Learn whether the id that the document carries is its own: a copy's is replaced with its first step or job. */
  private _askWhose(): void {
    const carried = this.notebookId;
    if (!carried) {
      return;
    }
    this._options.client.ownsId(this.path, carried).then(
      isOwn => {
        if (!isOwn) {
          this._foreignId = carried;
        }
      },
      error => console.warn(sentence(error))
    );
  }

  // Late output.

  private _onScheduled(_: unknown, args: { notebook: unknown; cell: Cell }): void {
    if (args.notebook !== this.panel.content) {
      return;
    }
    const { id } = args.cell.model;
    const source = args.cell.model.sharedModel.getSource();
    if (args.cell.model.type === 'code') {
      this.steps.noteRun(id, source);
    }
    if (stepName(source) === null) {
      return;
    }
    const before = this.notebookId;
    if (this.ensureId() !== before) {
      this._greet();
    }
    const replaced = this.steps.executionOf(id);
    if (replaced) {
      this._replaced.set(replaced.id, Date.now());
    }
    this._late.delete(id);
    this._restored.delete(id);
    this._ranHere.add(id);
    this._tellDocument();
  }

  private _onMessage(_: unknown, message: KernelMessage.IMessage): void {
    const waits = waitsFor(message);
    if (waits !== undefined) {
      this.steps.waitsFor = waits;
      return;
    }
    const late = lateOutput(message);
    // A copy shows only what it ran itself; of the pages that share one document, the one that ran the cell writes.
    const isOthers = this.steps.isCopy || this.panel.model?.collaborative === true;
    if (!late || (isOthers && !this._ranHere.has(late.cell))) {
      return;
    }
    if (this._closed.has(late.execution) || this._asking.has(late.cell)) {
      return;
    }
    const model = this._codeModel(late.cell);
    if (!model) {
      return;
    }
    let output = this._late.get(late.cell);
    if (output?.execution !== late.execution) {
      if (this._replaced.has(late.execution) && this._isNewer(late)) {
        return;
      }
      output = new LateOutput(late.execution, model.outputs, model.executionCount);
      this._late.set(late.cell, output);
    }
    output.apply(late.message);
    this._followPicture(late.message);
  }

  /** Let the list of steps know what a fan-out's picture tells. */
  private _followPicture(message: PartialJSONObject): void {
    const data = message.data as PartialJSONObject | undefined;
    const picture = data && FANOUT_MIME in data ? readPicture(data[FANOUT_MIME]) : null;
    if (picture) {
      this.steps.takePicture(picture);
    }
  }

  /** Whether the cell has begun another execution since this one. */
  private _isNewer(late: { readonly cell: string; readonly execution: string }): boolean {
    const now = this.steps.executionOf(late.cell);
    return now === undefined || now.id !== late.execution;
  }

  private _codeModel(cell: string): ICodeCellModel | null {
    for (const model of this.panel.content.model?.cells ?? []) {
      if (model.id === cell && model.type === 'code') {
        return model as ICodeCellModel;
      }
    }
    return null;
  }

  /** Put back what steps have printed while this page was not there to hear it. */
  private _restore(): void {
    const kernel = this.steps.kernel;
    const cells = this._cells()
      .filter(cell => stepName(cell.source) !== null && !this._ranHere.has(cell.id))
      .map(cell => cell.id);
    this.steps.refresh().catch(error => console.warn(sentence(error)));
    if (!kernel || !cells.length) {
      return;
    }
    cells.forEach(cell => this._asking.add(cell));
    this._options.client
      .outputs({ kernel, cells, path: this.path, messages: true })
      .then(answer => {
        if (this._isDisposed || kernel !== this.steps.kernel || answer.copied) {
          return;
        }
        this.steps.ranAs = answer.notebook_id;
        for (const [cell, execution] of Object.entries(answer.outputs)) {
          if (!this._ranHere.has(cell) && this._isUnsaved(execution)) {
            this._fill(cell, execution);
          }
        }
      })
      .catch(error => console.warn(sentence(error)))
      .finally(() => cells.forEach(cell => this._asking.delete(cell)));
  }

  /** Whether the saved notebook cannot hold all of an execution's output: it ended after the last save, or has not. */
  private _isUnsaved(execution: IExecution): boolean {
    if (execution.ended === null) {
      return true;
    }
    const saved = Date.parse(this.panel.context.contentsModel?.last_modified ?? '');
    return Number.isNaN(saved) || millis(execution.ended) > saved - 1000;
  }

  private _fill(cell: string, execution: IExecution): void {
    const model = this._codeModel(cell);
    if (!model) {
      return;
    }
    const output = new LateOutput(execution.id, model.outputs, model.executionCount);
    if (!sameOutputs(model.outputs.toJSON(), execution.messages)) {
      output.fill(execution.messages);
    }
    this._late.set(cell, output);
    if (isUnderWay(execution)) {
      this._join(cell, execution.id);
    } else {
      this._closed.add(execution.id);
    }
  }

  /** Note that a cell's step is followed from its middle on: its output is made exact at its end. */
  private _join(cell: string, execution: string): void {
    const { kernel } = this.steps;
    if (kernel !== null) {
      this._restored.set(cell, { execution, kernel });
    }
  }

  /** Note that the kernel which passed on what these steps print will not do so to their end. */
  private _joinAgain(steps: ReadonlyArray<IExecution>): void {
    for (const { id, cell } of steps) {
      if (cell && this._ranHere.has(cell)) {
        this._join(cell, id);
      }
    }
  }

  /** Make the output of a step that was joined on its way exact, once it has ended. */
  private _onExecution(_: StepsModel, execution: IExecution): void {
    const { cell } = execution;
    const joined = cell ? this._restored.get(cell) : undefined;
    if (!cell || joined?.execution !== execution.id || isUnderWay(execution)) {
      return;
    }
    this._restored.delete(cell);
    this._options.client
      .outputs({ kernel: joined.kernel, cells: [cell], path: this.path, messages: true })
      .then(({ outputs: { [cell]: whole } }) => {
        const now = this._late.get(cell)?.execution ?? execution.id;
        const isLast = now === execution.id && !this._replaced.has(now);
        if (!this._isDisposed && whole?.id === execution.id && isLast) {
          this._fill(cell, whole);
        }
      })
      .catch(error => console.warn(sentence(error)));
  }

  /** End a cell's wait; what it waits for is asked to go on until the service has taken the interrupt back. */
  private async _stopWaiting(execution: string): Promise<void> {
    const kernel = this.panel.sessionContext.session?.kernel;
    if (!kernel) {
      return;
    }
    await kernel.interrupt();
    for (const pause of KEEP_AFTER) {
      await new Promise(resolve => setTimeout(resolve, pause));
      await this._options.client.keepExecution(execution);
    }
  }

  /** The notebook as the user sees it, without outputs. */
  content(): PartialJSONObject {
    return withoutOutputs((this.panel.model?.toJSON() ?? {}) as PartialJSONObject);
  }

  private _tellDocument(): void {
    void this._sendDocument.invoke().catch(error => console.warn(sentence(error)));
  }

  private async _passOn(): Promise<void> {
    const kernel = this.steps.kernel;
    if (kernel && !this._isDisposed) {
      await this._options.client.document({ kernel, notebook: this.content() });
    }
  }

  private _sendDocument = new Throttler(() => this._passOn(), { limit: 1000, edge: 'trailing' });
  private _asking = new Set<string>();
  private _closed = new Set<string>();
  private _foreignId: string | null = null;
  private _install = '%pip install mlbench';
  private _isDisposed = false;
  private _known: { id: string; source: string; tags: string[] }[] = [];
  private _late = new Map<string, LateOutput>();
  private _marks = new Map<string, CellMark>();
  private _ranHere = new Set<string>();
  /** The step's cell that was run in a kernel which has not loaded mlbench, though a cell of the notebook would. */
  private _ranInVain: string | null = null;
  private _replaced = new Map<string, number>();
  private _restored = new Map<string, { readonly execution: string; readonly kernel: string }>();
  private _status: Kernel.Status = 'unknown';
}

function loads(source: string): boolean {
  return /^\s*%(load_ext|reload_ext)\s+mlbench\b/m.test(source);
}

/** What a snapshot or a job makes of a notebook has outputs of its own. */
function withoutOutputs(notebook: PartialJSONObject): PartialJSONObject {
  const cells = (notebook.cells ?? []) as PartialJSONObject[];
  return {
    ...notebook,
    cells: cells.map(cell =>
      cell.cell_type === 'code' ? { ...cell, outputs: [], execution_count: null } : cell
    )
  };
}
