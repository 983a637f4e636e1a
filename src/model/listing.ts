/**
 * Lists that follow the news: runs, a page at a time, and jobs.
 */

import { IDisposable } from '@lumino/disposable';
import { Throttler } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IJobView, INews, IRunSummary } from '../api/schema';

const AT_MOST_EVERY = 700;
const PAGE = 50;

abstract class Listing implements IDisposable {
  constructor(
    protected client: Client,
    news: NewsFeed
  ) {
    news.arrived.connect(this._onNews, this);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Null before the first answer. */
  get error(): string | null {
    return this._error;
  }

  get isLoaded(): boolean {
    return this._isLoaded;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Ask again soon; many calls are one question. */
  refresh(): void {
    void this._again.invoke().catch(() => undefined);
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._again.dispose();
      Signal.clearData(this);
    }
  }

  protected abstract concerns(news: INews): boolean;
  protected abstract load(): Promise<void>;

  protected async attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this._error = null;
      this._isLoaded = true;
    } catch (error) {
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  protected forget(): void {
    this._isLoaded = false;
    this._error = null;
    this._changed.emit();
  }

  private _onNews(_: NewsFeed, news: INews): void {
    if (news.type === 'changed' || news.type === 'reset' || this.concerns(news)) {
      this.refresh();
    }
  }

  private _again = new Throttler(() => this.attempt(() => this.load()), {
    limit: AT_MOST_EVERY,
    edge: 'trailing'
  });
  private _changed = new Signal<this, void>(this);
  private _error: string | null = null;
  private _isDisposed = false;
  private _isLoaded = false;
}

export interface IRunsScope {
  /** The notebook whose runs are listed; null for all. */
  readonly path: string | null;
  readonly notebookId: string | null;
}

export class RunsModel extends Listing {
  get runs(): ReadonlyArray<IRunSummary> {
    return this._runs;
  }

  /** How many there are in all. */
  get count(): number {
    return this._count;
  }

  get hasMore(): boolean {
    return this._next !== null;
  }

  get scope(): IRunsScope {
    return this._scope;
  }

  set scope(scope: IRunsScope) {
    if (scope.path !== this._scope.path || scope.notebookId !== this._scope.notebookId) {
      this._scope = scope;
      this._runs = [];
      this._next = null;
      this._ticket += 1;
      this.forget();
      this.refresh();
    }
  }

  /** Load the next page. */
  async more(): Promise<void> {
    if (this._next === null || this._isLoading) {
      return;
    }
    this._isLoading = true;
    const ticket = this._ticket;
    await this.attempt(async () => {
      const page = await this.client.runs({ ...this._scope, before: this._next, limit: PAGE });
      if (!this.isDisposed && ticket === this._ticket) {
        this._runs = joined(this._runs, page.runs);
        this._next = page.next;
        this._count = page.count;
      }
    });
    this._isLoading = false;
  }

  protected concerns(news: INews): boolean {
    return news.type === 'run' || (news.type === 'execution' && news.run !== null);
  }

  protected async load(): Promise<void> {
    const ticket = ++this._ticket;
    const page = await this.client.runs({ ...this._scope, limit: PAGE });
    if (this.isDisposed || ticket !== this._ticket) {
      return;
    }
    const fresh = new Set(page.runs.map(each => each.run.id));
    const last = page.runs[page.runs.length - 1]?.run.started ?? 0;
    const older = this._runs.filter(each => !fresh.has(each.run.id) && each.run.started < last);
    if (!older.length || page.next === null) {
      this._runs = page.runs;
      this._next = page.next;
    } else {
      this._runs = [...page.runs, ...older];
    }
    this._count = page.count;
  }

  private _count = 0;
  private _isLoading = false;
  private _next: string | null = null;
  private _runs: ReadonlyArray<IRunSummary> = [];
  private _scope: IRunsScope = { path: null, notebookId: null };
  private _ticket = 0;
}

export class JobsModel extends Listing {
  get jobs(): ReadonlyArray<IJobView> {
    return this._jobs;
  }

  /** One line about whether schedules go on when the machine starts again. */
  get service(): string {
    return this._service;
  }

  protected concerns(news: INews): boolean {
    return news.type === 'job' || (news.type === 'run' && isOfJob(news));
  }

  protected async load(): Promise<void> {
    const ticket = ++this._ticket;
    const answer = await this.client.jobs();
    if (!this.isDisposed && ticket === this._ticket) {
      this._jobs = answer.jobs;
      this._service = answer.service;
    }
  }

  private _jobs: ReadonlyArray<IJobView> = [];
  private _service = '';
  private _ticket = 0;
}

function joined(
  known: ReadonlyArray<IRunSummary>,
  next: ReadonlyArray<IRunSummary>
): ReadonlyArray<IRunSummary> {
  const seen = new Set(known.map(each => each.run.id));
  return [...known, ...next.filter(each => !seen.has(each.run.id))];
}

function isOfJob(news: INews): boolean {
  const run = news.body.run as { readonly job?: string | null } | undefined;
  return Boolean(run?.job);
}
