/**
 * One run, as its page shows it: live while it runs.
 */

import { IDisposable } from '@lumino/disposable';
import { Throttler } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, IItemsQuestion, Refusal, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IDifference, IExecution, INews, INotebookView, IRunDetail } from '../api/schema';
import { ILogged, LoggedItems } from './logged';
import { Origins } from './origins';
import { IMessage, merged } from './outputs';
import { isUnderWay } from './steps';

export type RunTab = 'steps' | 'artifacts' | 'notebook';

/** Failed items of one fan-out that are listed at most. */
const MOST_FAILED = 20;
/** Items that are added to the list when more are asked for. */
const MORE_ITEMS = 100;

/** What is listed of a fan-out's items: those that failed, the slowest, and those that were asked for. */
export interface IFold {
  readonly items: ReadonlyArray<IExecution>;
  readonly error: string | null;
}

const NOTHING: IFold = { items: [], error: null };

export class RunModel implements IDisposable {
  constructor(
    readonly id: string,
    readonly path: string | null,
    private _client: Client,
    private _news: NewsFeed
  ) {
    this._origins = new Origins(_client, () => this._changed.emit());
    this._logged = new LoggedItems(_client, path, () => {
      if (!this._isDisposed) {
        this._changed.emit();
      }
    });
    _news.arrived.connect(this._onNews, this);
    this.refresh();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get detail(): IRunDetail | null {
    return this._detail;
  }

  get error(): string | null {
    return this._error;
  }

  /** The execution on the right side, with its messages. */
  get selected(): IExecution | null {
    return this._selected;
  }

  /** The id of the chosen execution, before its messages have come. */
  get chosen(): string | null {
    return this._chosen;
  }

  get tab(): RunTab {
    return this._tab;
  }

  set tab(tab: RunTab) {
    this._tab = tab;
    this._changed.emit();
    if (tab === 'notebook' && !this._notebook) {
      void this.showNotebook(true);
    }
    this._logged.update(this._detail?.executions ?? [], tab === 'artifacts');
  }

  get notebook(): INotebookView | null {
    return this._notebook;
  }

  get notebookError(): string | null {
    return this._notebookError;
  }

  /** What differs from the last run that succeeded; null where there is none, or this has not failed. */
  get sinceSuccess(): IDifference | null {
    return this._sinceSuccess;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Whether its page is in sight: what comes meanwhile is asked for when it is again. */
  set isInSight(isInSight: boolean) {
    this._isInSight = isInSight;
    if (isInSight && this._isLate) {
      this.refresh();
      void this._loadSelected();
    }
  }

  refresh(): void {
    void this._again.invoke().catch(() => undefined);
  }

  /** The run that an execution was reused from, once the server has said which. */
  reusedFrom(execution: IExecution): string | null {
    return this._origins.runOf(execution, this.path);
  }

  /** What is listed under the execution of a fan-out. */
  fold(execution: string): IFold {
    return this._folds.get(execution) ?? NOTHING;
  }

  /** How many artifacts the items of its fan-outs logged. */
  get loggedByItems(): number {
    return this._logged.count;
  }

  /** What is known of the artifacts that the items of a fan-out logged. */
  logged(execution: string): ILogged {
    return this._logged.of(execution);
  }

  /** Ask for more of the artifacts that the items of a fan-out logged. */
  showMoreLogged(execution: string): void {
    void this._logged.more(execution);
  }

  /** How many of a fan-out's items are listed next, when more are asked for. */
  restOf({ id, fanout, ended }: IExecution): number {
    const left = (fanout?.total ?? 0) - this.fold(id).items.length;
    return ended === null ? 0 : Math.min(MORE_ITEMS, left);
  }

  /** List more of a fan-out's items, in their order. */
  async showMoreItems({ id }: IExecution): Promise<void> {
    const after = this._listedTo.get(id);
    try {
      const found = await this._client.items(id, { after, limit: MORE_ITEMS }, this.path);
      if (this._isDisposed) {
        return;
      }
      const last = found[found.length - 1]?.item ?? null;
      if (last !== null) {
        this._listedTo.set(id, last);
        this._asked.set(id, [...(this._asked.get(id) ?? []), ...found]);
        this._merge(id, []);
      }
    } catch (error) {
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  /** Choose an item of a fan-out; while nothing is recorded of it, the fan-out itself. */
  async chooseItem(execution: string, item: number): Promise<void> {
    this.choose(execution);
    try {
      const [found] = await this._client.items(execution, one(item), this.path);
      if (!this._isDisposed && this._chosen === execution && found?.item === item) {
        this._asked.set(execution, [...(this._asked.get(execution) ?? []), found]);
        this._merge(execution, []);
        this.choose(found.id);
      }
    } catch (error) {
      this._error = sentence(error);
      this._changed.emit();
    }
  }

  /** Choose the execution whose details are shown. */
  choose(execution: string | null): void {
    if (execution === this._chosen) {
      return;
    }
    this._chosen = execution;
    const items = [...this._folds.values()].flatMap(fold => fold.items);
    this._selected =
      [...(this._detail?.executions ?? []), ...items].find(each => each.id === execution) ?? null;
    this._watching?.dispose();
    this._watching = null;
    this._changed.emit();
    void this._loadSelected();
  }

  /** Ask for the notebook as it was executed, or as it was. */
  async showNotebook(executed: boolean): Promise<void> {
    try {
      const notebook = await this._client.runNotebook(this.id, executed, this.path);
      if (this._isDisposed) {
        return;
      }
      this._notebook = notebook;
      this._notebookError = null;
    } catch (error) {
      this._notebookError = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  /** Cancel what is under way; the news tell what became of it. */
  async cancel(): Promise<void> {
    try {
      await this._client.cancelRun(this.id);
    } catch (error) {
      this._error = sentence(error);
      this._changed.emit();
    }
    this.refresh();
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._watching?.dispose();
      this._again.dispose();
      Signal.clearData(this);
    }
  }

  private async _load(): Promise<void> {
    this._isLate = false;
    try {
      const detail = await this._client.run(this.id, this.path);
      if (this._isDisposed) {
        return;
      }
      this._detail = detail;
      this._error = null;
      for (const execution of detail.executions) {
        void this._unfold(execution);
      }
      this._logged.update(detail.executions, this._tab === 'artifacts');
      if (this._chosen === null) {
        const { executions } = detail;
        const first =
          executions.find(each => each.state === 'failed') ??
          executions.find(isUnderWay) ??
          executions[executions.length - 1];
        this.choose(first?.id ?? null);
      } else {
        const now = detail.executions.find(each => each.id === this._chosen);
        if (now && this._selected && now.state !== this._selected.state) {
          void this._loadSelected();
        }
      }
      if (detail.run.state === 'failed' && !this._isSinceAsked) {
        this._isSinceAsked = true;
        void this._loadSinceSuccess();
      }
      if (this._tab === 'notebook' && detail.run.output && this._notebook?.has_executed === false) {
        void this.showNotebook(true);
      }
    } catch (error) {
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  /** Ask what has changed since the last success; the first run, or one that never succeeded, has none. */
  private async _loadSinceSuccess(): Promise<void> {
    try {
      this._sinceSuccess = await this._client.difference(this.id, 'last-success', this.path);
    } catch (error) {
      this._isSinceAsked = error instanceof Refusal;
      if (!(error instanceof Refusal && error.status === 404)) {
        console.warn(sentence(error));
      }
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  /** Ask for the items that are listed of a fan-out, when they may be others than those that are. */
  private async _unfold({ id, fanout, state }: IExecution): Promise<void> {
    const key = fanout && `${fanout.failed} ${fanout.slowest} ${state} ${fanout.total}`;
    if (!fanout || key === null || this._unfolded.get(id) === key) {
      return;
    }
    this._unfolded.set(id, key);
    try {
      const { slowest, failed } = fanout;
      const [bad, slow] = await Promise.all([
        failed
          ? this._client.items(id, { state: 'failed', limit: MOST_FAILED }, this.path)
          : Promise.resolve([]),
        slowest === null ? Promise.resolve([]) : this._client.items(id, one(slowest), this.path)
      ]);
      if (!this._isDisposed) {
        this._merge(id, [...bad, ...slow.filter(each => each.item === slowest)]);
      }
    } catch (error) {
      this._unfolded.delete(id);
      this._folds.set(id, { ...this.fold(id), error: sentence(error) });
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  private _merge(id: string, found: ReadonlyArray<IExecution>): void {
    const listed = found.length ? found : this.fold(id).items;
    const items = new Map<string, IExecution>();
    for (const each of [...listed, ...(this._asked.get(id) ?? [])]) {
      items.set(each.id, each);
    }
    this._folds.set(id, { items: [...items.values()], error: null });
  }

  private async _loadSelected(): Promise<void> {
    const id = this._chosen;
    if (id === null) {
      return;
    }
    try {
      const execution = await this._client.execution(id, this.path);
      if (this._isDisposed || id !== this._chosen) {
        return;
      }
      // The code of all items is kept once, with their step.
      const whole = this._detail?.executions.find(each => each.id === execution.part_of);
      this._selected = { ...execution, source: execution.source ?? whole?.source ?? null };
      if (isUnderWay(execution)) {
        this._watching = this._watching ?? this._news.watch(id);
      } else {
        this._watching?.dispose();
        this._watching = null;
      }
    } catch (error) {
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  private _onNews(_: NewsFeed, news: INews): void {
    const isOfAll = news.type === 'changed' || news.type === 'reset';
    if (!isOfAll && news.run !== this.id) {
      return;
    }
    if (news.type === 'messages') {
      this._append(news);
    } else if (!this._isInSight) {
      this._isLate = true;
    } else {
      this.refresh();
      if (isOfAll) {
        void this._loadSelected();
      }
    }
  }

  private _append(news: INews): void {
    const selected = this._selected;
    if (!selected || news.body.execution !== selected.id || !isUnderWay(selected)) {
      return;
    }
    const messages = appended(
      selected.messages as ReadonlyArray<IMessage>,
      news.body.messages as unknown as ReadonlyArray<IMessage>
    );
    this._selected = { ...selected, messages };
    this._changed.emit();
  }

  private _asked = new Map<string, ReadonlyArray<IExecution>>();
  private _folds = new Map<string, IFold>();
  private _listedTo = new Map<string, number>();
  private _logged: LoggedItems;
  private _origins: Origins;
  private _unfolded = new Map<string, string>();
  private _again = new Throttler(() => this._load(), { limit: 500, edge: 'trailing' });
  private _changed = new Signal<this, void>(this);
  private _chosen: string | null = null;
  private _detail: IRunDetail | null = null;
  private _error: string | null = null;
  private _isDisposed = false;
  private _isInSight = true;
  private _isLate = false;
  private _isSinceAsked = false;
  private _notebook: INotebookView | null = null;
  private _notebookError: string | null = null;
  private _selected: IExecution | null = null;
  private _sinceSuccess: IDifference | null = null;
  private _tab: RunTab = 'steps';
  private _watching: IDisposable | null = null;
}

/** The question for a single item. */
function one(item: number): IItemsQuestion {
  return item > 0 ? { after: item - 1, limit: 1 } : { limit: 1 };
}

/** Add live messages to those that are there: streams grow, displays are updated, output is cleared. */
export function appended(
  known: ReadonlyArray<IMessage>,
  more: ReadonlyArray<IMessage>
): ReadonlyArray<IMessage> {
  let result = [...known];
  for (const message of more) {
    if (message.output_type === 'clear_output') {
      result = message.wait === true ? [...result, message] : [];
    } else if (message.output_type === 'update_display_data') {
      const id = displayId(message);
      result = result.map(each =>
        id !== undefined && displayId(each) === id
          ? { ...each, data: message.data, metadata: message.metadata }
          : each
      );
    } else {
      const waits = result[result.length - 1]?.output_type === 'clear_output';
      result = waits ? [message] : [...result, message];
    }
  }
  return merged(result) as IMessage[];
}

function displayId(message: IMessage): unknown {
  return (message.transient as { display_id?: unknown } | undefined)?.display_id;
}
