/**
 * Lists that follow the news, and the jobs as one.
 */

import { IDisposable } from '@lumino/disposable';
import { Throttler } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IJobView, INews } from '../api/schema';

const AT_MOST_EVERY = 700;

export abstract class Listing implements IDisposable {
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

  protected emit(): void {
    this._changed.emit();
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

function isOfJob(news: INews): boolean {
  const run = news.body.run as { readonly job?: string | null } | undefined;
  return Boolean(run?.job);
}
