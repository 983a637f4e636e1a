/**
 * One run, as its page shows it: live while it runs.
 */

import { IDisposable } from '@lumino/disposable';
import { Throttler } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IExecution, INews, INotebookView, IRunDetail } from '../api/schema';
import { IMessage, merged } from './outputs';
import { isUnderWay } from './steps';

export type RunTab = 'steps' | 'notebook';

export class RunModel implements IDisposable {
  constructor(
    readonly id: string,
    readonly path: string | null,
    private _client: Client,
    private _news: NewsFeed
  ) {
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
  }

  get notebook(): INotebookView | null {
    return this._notebook;
  }

  get notebookError(): string | null {
    return this._notebookError;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  refresh(): void {
    void this._again.invoke().catch(() => undefined);
  }

  /** Choose the execution whose details are shown. */
  choose(execution: string | null): void {
    if (execution === this._chosen) {
      return;
    }
    this._chosen = execution;
    this._selected = this._detail?.executions.find(each => each.id === execution) ?? null;
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
    try {
      const detail = await this._client.run(this.id, this.path);
      if (this._isDisposed) {
        return;
      }
      this._detail = detail;
      this._error = null;
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
      this._selected = execution;
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
    if (news.type === 'changed' || news.type === 'reset') {
      this.refresh();
      void this._loadSelected();
    } else if (news.run !== this.id) {
      return;
    } else if (news.type === 'messages') {
      this._append(news);
    } else {
      this.refresh();
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

  private _again = new Throttler(() => this._load(), { limit: 500, edge: 'trailing' });
  private _changed = new Signal<this, void>(this);
  private _chosen: string | null = null;
  private _detail: IRunDetail | null = null;
  private _error: string | null = null;
  private _isDisposed = false;
  private _notebook: INotebookView | null = null;
  private _notebookError: string | null = null;
  private _selected: IExecution | null = null;
  private _tab: RunTab = 'steps';
  private _watching: IDisposable | null = null;
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
