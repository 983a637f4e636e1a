/**
 * What the items of a run's fan-outs logged: the first page of each, and more of them when that is asked for.
 */

import { Client, sentence } from '../api/client';
import type { IExecution } from '../api/schema';
import { ended } from './fanout';
import { isUnderWay } from './steps';

/** Items that are asked for at first, and each time when more are. */
const FEW = 24;
const MORE = 96;
/** Items that the server hands out at most at a time. */
const MOST = 1000;

/** What is known of the artifacts that a fan-out's items logged. */
export interface ILogged {
  /** Items that logged some, in order. */
  readonly items: ReadonlyArray<IExecution>;
  /** Artifacts of all items, those that are not listed too. */
  readonly count: number;
  /** The item after which more can be asked for; null where all are listed. */
  readonly next: number | null;
  readonly error: string | null;
}

const NOTHING: ILogged = { items: [], count: 0, next: null, error: null };

export class LoggedItems {
  constructor(
    private _client: Client,
    private _path: string | null,
    private _onChange: () => void
  ) {}

  /** What is known of a fan-out, by the id of its step's execution. */
  of(execution: string): ILogged {
    return this._known.get(execution) ?? NOTHING;
  }

  /** How many artifacts the items of all fan-outs logged. */
  get count(): number {
    return [...this._known.values()].reduce((sum, { count }) => sum + count, 0);
  }

  /**
   * Ask anew of those fan-outs whose items may have logged others since.
   *
   * @param isShown - whether they are seen: if not, what is under way can wait until it has ended.
   */
  update(executions: ReadonlyArray<IExecution>, isShown: boolean): void {
    for (const execution of executions) {
      const { id, fanout, state } = execution;
      const key = fanout && `${state} ${ended(fanout)}`;
      if (key && this._asked.get(id) !== key && (isShown || !isUnderWay(execution))) {
        this._asked.set(id, key);
        const had = this.of(id).items.length;
        void this._ask(id, { limit: Math.min(MOST, Math.max(FEW, had)) }, []);
      }
    }
  }

  /** Ask for the next items of a fan-out; after an error, for what could not be had. */
  async more(execution: string): Promise<void> {
    const { items, next } = this.of(execution);
    await this._ask(
      execution,
      next === null ? { limit: FEW } : { after: next, limit: MORE },
      next === null ? [] : items
    );
  }

  private async _ask(
    id: string,
    question: { readonly after?: number; readonly limit: number },
    before: ReadonlyArray<IExecution>
  ): Promise<void> {
    const ticket = (this._tickets.get(id) ?? 0) + 1;
    this._tickets.set(id, ticket);
    try {
      const page = await this._client.loggedItems(id, question, this._path);
      if (this._tickets.get(id) !== ticket) {
        return;
      }
      this._known.set(id, {
        items: [...before, ...page.items],
        count: page.logged ?? 0,
        next: page.next,
        error: null
      });
    } catch (error) {
      this._asked.delete(id);
      this._known.set(id, { ...this.of(id), error: sentence(error) });
    }
    this._onChange();
  }

  private _asked = new Map<string, string>();
  private _known = new Map<string, ILogged>();
  private _tickets = new Map<string, number>();
}
