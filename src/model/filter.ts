/**
 * The filter over the runs: what is typed, what goes on, by what is sorted; remembered for each notebook.
 */

import type { IStateDB } from '@jupyterlab/statedb';
import { IDisposable } from '@lumino/disposable';
import { Debouncer } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import { askedAt, completed, fittingValues, IAsked, ITyped, metricOf } from './query';
import type { IRefused, RunsModel } from './runs';

const REMEMBERED = 'mlbench:filters';
/** Notebooks whose filter is remembered at most. */
const MOST_REMEMBERED = 200;
/** Names that are proposed at most. */
const MOST_PROPOSED = 12;
const AFTER_TYPING = 350;

/** What a filter is set to. */
interface ISetting {
  readonly query: string;
  readonly sort: string | null;
  /** The last metric that was sorted by, which says what the best run is. */
  readonly goal: string | null;
}

const NOTHING: ISetting = { query: '', sort: null, goal: null };

/** The notebook whose runs are listed; a null path for all. */
export interface IScope {
  readonly path: string | null;
  readonly notebookId: string | null;
}

export class FilterModel implements IDisposable {
  constructor(
    private _client: Client,
    private _runs: RunsModel,
    private _state: IStateDB | null
  ) {
    this._restored = this._restore();
    _runs.changed.connect(this._emit, this);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** What is typed. */
  get text(): string {
    return this._text;
  }

  get sort(): string | null {
    return this._setting.sort;
  }

  /** Whether runs are left out, or may be. */
  get isSet(): boolean {
    return this._text.trim() !== '';
  }

  /** Why what is typed is no query; null as long as it may become one. */
  get refused(): IRefused | null {
    const refused = this._runs.refused;
    const isOfThis = refused !== null && refused.query === this._text;
    return isOfThis && !this._proposals.length ? refused : null;
  }

  get proposals(): ReadonlyArray<string> {
    return this._proposals;
  }

  /** The number of the proposal that Enter takes; -1 for none. */
  get active(): number {
    return this._active;
  }

  /** The names of metrics in use, as a sort has them. */
  get metrics(): ReadonlyArray<string> {
    return this._metrics;
  }

  get scope(): IScope {
    return this._scope;
  }

  /** List the runs of another notebook, as they were filtered there. */
  set scope(scope: IScope) {
    const { path, notebookId } = this._scope;
    if (scope.path === path && scope.notebookId === notebookId && this._isReady) {
      return;
    }
    const isOther = scope.path !== path || !this._isReady;
    this._scope = scope;
    if (!isOther) {
      this._ask();
      return;
    }
    this._metrics = [];
    void this._restored.then(() => {
      if (this._isDisposed || this._scope !== scope) {
        return;
      }
      this._isReady = true;
      this._setting = this._remembered.get(keyOf(scope)) ?? NOTHING;
      this._text = this._setting.query;
      this.closeProposals();
      this._ask();
      void this.loadMetrics();
    });
  }

  /** Hear what is typed, and where the caret is: it is looked for when the typing rests. */
  type(typed: ITyped): void {
    this._text = typed.text;
    this._emit();
    void this._later.invoke().catch(() => undefined);
    void this.propose(typed);
  }

  /** Look for what is typed at once. */
  apply(): void {
    this.closeProposals();
    this._set({ ...this._setting, query: this._text });
  }

  /** Look for something among the runs that are listed now. */
  async lookFor(query: string): Promise<void> {
    await this._restored;
    this._text = query;
    this.apply();
  }

  clear(): void {
    this._text = '';
    this.apply();
  }

  /** Sort by something else; null for newest first. */
  sortBy(sort: string | null): void {
    const goal = metricOf(sort) === null ? this._setting.goal : sort;
    this._set({ ...this._setting, sort, goal });
  }

  /** Ask what goes on where the caret is. */
  async propose(typed: ITyped): Promise<void> {
    const asked = askedAt(typed);
    const ticket = ++this._ticket;
    if (!asked || (!asked.prefix && !asked.values)) {
      this.closeProposals();
      return;
    }
    let found = fittingValues(asked);
    if (!asked.values) {
      try {
        found = await this._client.completions(asked.prefix, this._scope.path);
      } catch (error) {
        console.warn(sentence(error));
      }
    }
    if (this._isDisposed || ticket !== this._ticket) {
      return;
    }
    const isThere = found.length === 1 && found[0] === typed.text.slice(asked.start, asked.end);
    this._asked = asked;
    this._proposals = isThere ? [] : found.slice(0, MOST_PROPOSED);
    this._active = -1;
    this._emit();
  }

  /** Go to the next proposal, or to the one before. */
  move(by: 1 | -1): void {
    const many = this._proposals.length + 1;
    this._active = ((this._active + 1 + by + many) % many) - 1;
    this._emit();
  }

  /** Take a proposal; returns the text with the caret behind it. */
  choose(at: number): ITyped | null {
    const choice = this._proposals[at];
    if (choice === undefined || !this._asked) {
      return null;
    }
    const typed = completed(this._text, this._asked, choice);
    this.closeProposals();
    this.type(typed);
    return typed;
  }

  closeProposals(): void {
    this._ticket += 1;
    this._asked = null;
    this._proposals = [];
    this._active = -1;
    this._emit();
  }

  /** Ask which metrics there are to sort by. */
  async loadMetrics(): Promise<void> {
    const { path } = this._scope;
    try {
      const metrics = await this._client.completions('metrics.', path);
      if (!this._isDisposed && path === this._scope.path) {
        this._metrics = metrics;
        this._emit();
      }
    } catch (error) {
      console.warn(sentence(error));
    }
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._later.dispose();
      Signal.clearData(this);
    }
  }

  private _emit(): void {
    this._changed.emit();
  }

  private _set(setting: ISetting): void {
    this._setting = setting;
    this._ask();
    this._remember();
  }

  private _ask(): void {
    const { query, sort, goal } = this._setting;
    const metric = metricOf(sort) ?? metricOf(goal);
    this._runs.question = { ...this._scope, query, sort, goal, metric };
    this._emit();
  }

  private _remember(): void {
    const key = keyOf(this._scope);
    this._remembered.delete(key);
    const { query, sort, goal } = this._setting;
    if (query || sort || goal) {
      this._remembered.set(key, this._setting);
    }
    const newest = [...this._remembered].slice(-MOST_REMEMBERED);
    const saved = newest.map(([path, setting]) => ({ path, ...setting }));
    this._state?.save(REMEMBERED, { filters: saved }).catch(error => console.warn(error));
  }

  private async _restore(): Promise<void> {
    try {
      const saved = (await this._state?.fetch(REMEMBERED)) as { filters?: unknown } | undefined;
      for (const each of Array.isArray(saved?.filters) ? saved.filters : []) {
        if (typeof each?.path === 'string' && typeof each.query === 'string') {
          const { path, query } = each;
          this._remembered.set(path, { query, sort: textOf(each.sort), goal: textOf(each.goal) });
        }
      }
    } catch (error) {
      console.warn(error);
    }
  }

  private _active = -1;
  private _asked: IAsked | null = null;
  private _changed = new Signal<this, void>(this);
  private _isDisposed = false;
  private _isReady = false;
  private _later = new Debouncer(() => {
    if (this._text !== this._setting.query) {
      this._set({ ...this._setting, query: this._text });
    }
  }, AFTER_TYPING);
  private _metrics: ReadonlyArray<string> = [];
  private _proposals: ReadonlyArray<string> = [];
  private _remembered = new Map<string, ISetting>();
  private _restored: Promise<void>;
  private _scope: IScope = { path: null, notebookId: null };
  private _setting = NOTHING;
  private _text = '';
  private _ticket = 0;
}

function keyOf({ path }: IScope): string {
  return path ?? '';
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}
