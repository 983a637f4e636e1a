/**
 * Two runs that are compared, as their page shows them.
 */

import { IDisposable } from '@lumino/disposable';
import { Throttler } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IDifference, INews, IRunDetail } from '../api/schema';

const AT_MOST_EVERY = 1000;
/**
 * How often it is compared anew while a run of the two is under way, and when anything may have changed, as on a store
 * of many people it always has: that reads both of them, and their data.
 */
const WHILE_UNDER_WAY = 10000;

/** How the lines of code stand. */
export type CodeLayout = 'unified' | 'beside';

/** What differs, with the two runs, the earlier one first. */
export interface ICompared {
  readonly difference: IDifference;
  readonly before: IRunDetail;
  readonly after: IRunDetail;
}

export class ComparisonModel implements IDisposable {
  /**
   * @param run - the id of a run.
   * @param other - the id of another one, or `last-success` or `run-before` of the same notebook.
   */
  constructor(
    readonly run: string,
    readonly other: string,
    readonly path: string | null,
    private _client: Client,
    news: NewsFeed
  ) {
    news.arrived.connect(this._onNews, this);
    void this._load();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Null before the first answer. */
  get compared(): ICompared | null {
    return this._compared;
  }

  get error(): string | null {
    return this._error;
  }

  get layout(): CodeLayout {
    return this._layout;
  }

  set layout(layout: CodeLayout) {
    this._layout = layout;
    this._changed.emit();
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Whether its page is in sight: what comes meanwhile is looked at when it is again. */
  set isInSight(isInSight: boolean) {
    this._isInSight = isInSight;
    if (isInSight && this._isLate) {
      this.refresh();
    }
  }

  refresh(): void {
    void this._again.invoke().catch(() => undefined);
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._again.dispose();
      this._later.dispose();
      Signal.clearData(this);
    }
  }

  private async _load(): Promise<void> {
    const ticket = ++this._ticket;
    this._isLate = false;
    try {
      const compared = isId(this.other)
        ? await this._ofTwo(this.other)
        : await this._ofEarlier(this.other);
      if (this._isDisposed || ticket !== this._ticket) {
        return;
      }
      this._compared = compared;
      this._error = null;
    } catch (error) {
      if (ticket !== this._ticket) {
        return;
      }
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  /** Compare with a run that is named: the one that began later counts as the later. */
  private async _ofTwo(other: string): Promise<ICompared> {
    const both = await Promise.all([this._detail(this.run), this._detail(other)]);
    const [before, after] = both.sort((one, two) => one.run.started - two.run.started);
    const difference = await this._client.difference(after.run.id, before.run.id, this.path);
    return { difference, before, after };
  }

  private async _ofEarlier(earlier: string): Promise<ICompared> {
    const difference = await this._client.difference(this.run, earlier, this.path);
    const [before, after] = await Promise.all([
      this._detail(difference.before),
      this._detail(difference.after)
    ]);
    return { difference, before, after };
  }

  private _detail(id: string): Promise<IRunDetail> {
    return this._client.run(id, this.path);
  }

  private _onNews(_: NewsFeed, news: INews): void {
    const { before, after } = this._compared ?? {};
    const isOfAll = news.type === 'changed' || news.type === 'reset';
    const isOfThese =
      news.run !== null && (news.run === before?.run.id || news.run === after?.run.id);
    if (news.type === 'messages' || !(isOfAll || isOfThese)) {
      return;
    }
    const areBothOver = [before, after].every(each => !isGoing(each?.run.state));
    if (!this._isInSight) {
      this._isLate = true;
    } else if (isOfEnd(news) || (areBothOver && (isOfThese || !this._compared))) {
      this.refresh();
    } else {
      void this._later.invoke().catch(() => undefined);
    }
  }

  private _again = new Throttler(() => this._load(), { limit: AT_MOST_EVERY, edge: 'trailing' });
  private _changed = new Signal<this, void>(this);
  private _compared: ICompared | null = null;
  private _error: string | null = null;
  private _isDisposed = false;
  private _isInSight = true;
  private _isLate = false;
  private _later = new Throttler(() => this._load(), { limit: WHILE_UNDER_WAY, edge: 'trailing' });
  private _layout: CodeLayout = 'beside';
  private _ticket = 0;
}

function isGoing(state: unknown): boolean {
  return state === 'queued' || state === 'running';
}

/** Whether a run is said to be over. */
function isOfEnd({ type, body }: INews): boolean {
  const run = body.run as { readonly state?: unknown } | undefined;
  return type === 'run' && run?.state !== undefined && !isGoing(run.state);
}

function isId(text: string): boolean {
  return /^[a-z2-7]{26}$/.test(text);
}
