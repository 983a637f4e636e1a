/**
 * The runs that the sidebar lists: any number of them, filtered and sorted, of which those around the sight are held.
 */

import { isUnfinished } from './query';
import { Listing } from './listing';
import { IWanted, Pages } from './pages';
import { Refusal } from '../api/client';
import type { INews, IRunList, IRunSummary } from '../api/schema';

/** Runs of the first page, and those that may have come to a page since it was asked for. */
const PAGE = 50;
/** Runs of the pages that follow: as many as the server sends at most. */
const LARGEST_PAGE = 200;
/** Runs behind those in sight that are asked for beforehand. */
const AHEAD = 100;
/** Runs that are held at most. */
const MOST_HELD = 2000;

/** Which runs are listed, and how. */
export interface IRunsQuestion {
  /** The notebook whose runs are listed; null for all. */
  readonly path: string | null;
  readonly notebookId: string | null;
  readonly query: string;
  readonly sort: string | null;
  /** The sort that has the best run first, where it is known which that is. */
  readonly goal: string | null;
  /** The metric that runs are shown with. */
  readonly metric: string | null;
}

/** What has come while the list was held. */
export interface IWaiting {
  /** Runs that are not in the list; none where only the order is another one. */
  readonly fresh: number;
}

/** Why a query was not answered: a sentence, and the character that is to blame. */
export interface IRefused {
  readonly query: string;
  readonly message: string;
  readonly place: number;
  /** Whether only its end is missing. */
  readonly isUnfinished: boolean;
}

const ALL: IRunsQuestion = {
  path: null,
  notebookId: null,
  query: '',
  sort: null,
  goal: null,
  metric: null
};

export class RunsModel extends Listing {
  /** How many are known to be there, whether they are held or not. */
  get length(): number {
    return this._pages.length;
  }

  /** How many there are in all. */
  get count(): number {
    return this._count;
  }

  get hasMore(): boolean {
    return this._pages.hasMore;
  }

  /** The run with the best value of the metric that is looked at; null where that is not known. */
  get best(): string | null {
    return this._best;
  }

  /** Whether runs of several people are listed. */
  get isShared(): boolean {
    return this._users.size > 1;
  }

  get refused(): IRefused | null {
    return this._refused;
  }

  /** The question that is answered by what is listed; null before the first answer. */
  get answered(): IRunsQuestion | null {
    return this._answered;
  }

  /** Whether what is listed leaves out runs. */
  get isFiltered(): boolean {
    return Boolean(this._answered?.query.trim());
  }

  /** Whether what is listed is still the answer to an earlier question. */
  get isBehind(): boolean {
    return this._answered !== this._question && this._refused === null;
  }

  get question(): IRunsQuestion {
    return this._question;
  }

  set question(question: IRunsQuestion) {
    const was = this._question;
    const isSame = (names: ReadonlyArray<keyof IRunsQuestion>) =>
      names.every(name => was[name] === question[name]);
    if (isSame(['path', 'notebookId', 'query', 'sort', 'goal', 'metric'])) {
      return;
    }
    this._question = question;
    this._refused = null;
    if (!isSame(['path', 'notebookId'])) {
      this._pages.clear();
      this._takeAll();
      this._answered = null;
      this._best = null;
      this._count = 0;
      this._users.clear();
      this.forget();
    } else {
      this.emit();
    }
    void this.attempt(() => this._load());
  }

  /** What would stand otherwise in the list were it not held; null where all of it is as it would be. */
  get waiting(): IWaiting | null {
    return this._isMoved ? { fresh: this._fresh.size } : null;
  }

  /**
   * Keep each run in its place while somebody points at one, and have all that came meanwhile take its place after.
   * What is said of each run stays up to date.
   */
  hold(isHeld: boolean): void {
    this._isHeld = isHeld;
    if (isHeld || !this._isMoved) {
      return;
    }
    if (this._answered?.sort === null) {
      // What came stands before all the others, which stay where they are.
      this._takeAll();
      this._pages.setStale();
      void this.attempt(() => this._load());
    } else {
      this.showWaiting();
    }
  }

  /** Begin the list anew, with all in their places. */
  showWaiting(): void {
    this._takeAll();
    this._isToBeginAnew = true;
    void this.attempt(() => this._load());
  }

  /** The last run that the list begins with, if it is held. */
  get first(): IRunSummary | null {
    return this._pages.slice(0, 1)[0] ?? null;
  }

  /** Runs from one number to another; null for those that are on their way. */
  slice(first: number, last: number): ReadonlyArray<IRunSummary | null> {
    return this._pages.slice(first, last);
  }

  /** The number of a run; -1 for one that is not held. */
  indexOf(id: string): number {
    return this._pages.indexOf(id);
  }

  /** Hear which runs are in sight, and ask for what they lack. */
  show(first: number, last: number): void {
    this._shown = { first, last };
    if (this.error === null && this._answered !== null && !this._isFilling && this._wanted()) {
      void this.attempt(() => this._fill());
    }
  }

  protected concerns(news: INews): boolean {
    return news.type === 'run' || (news.type === 'execution' && news.run !== null);
  }

  protected async load(): Promise<boolean> {
    this._pages.setStale();
    return this._load();
  }

  /** The question to which the list is the answer, or is to be: while a query is refused, the one before it. */
  private get _followed(): IRunsQuestion {
    return (this._refused && this._answered) ?? this._question;
  }

  private async _load(): Promise<boolean> {
    const question = this._followed;
    const isToBeginAnew = this._isToBeginAnew;
    if (question === this._answered && !this._pages.isEmpty && !isToBeginAnew) {
      await Promise.all([this._fill(), this._findBest(question)]);
      return question === this._answered;
    }
    let page: IRunList;
    try {
      page = await this._ask(question, null, PAGE);
    } catch (error) {
      if (question !== this._followed) {
        return false;
      }
      const isOfQuery = question.query !== '' && question !== this._answered;
      if (!(error instanceof Refusal) || error.problem.place === null || !isOfQuery) {
        throw error;
      }
      const { place } = error.problem;
      this._refused = {
        query: question.query,
        message: error.message,
        place,
        isUnfinished: isUnfinished(question.query, place)
      };
      this.emit();
      // What is listed goes on, with the news that came meanwhile.
      return this._answered === null || this._load();
    }
    if (this.isDisposed || question !== this._followed) {
      return false;
    }
    this._answered = question;
    this._count = page.count;
    this._pages.reset(page.runs, page.next);
    this._begun += 1;
    this._isToBeginAnew = false;
    this._takeAll();
    this._meet(page.runs);
    this.emit();
    await this._findBest(question);
    return question === this._answered;
  }

  /** Ask for page after page until what is in sight is there, and what is new at the front. */
  private async _fill(): Promise<boolean> {
    if (this._isFilling) {
      return false;
    }
    this._isFilling = true;
    try {
      for (let wanted = this._wanted(); wanted && !this.isDisposed; wanted = this._wanted()) {
        const question = this._answered;
        const begun = this._begun;
        if (question === null) {
          return false;
        }
        const limit = wanted.size ? Math.min(LARGEST_PAGE, wanted.size + PAGE) : LARGEST_PAGE;
        let page: IRunList;
        try {
          page = await this._ask(question, wanted.before, limit);
        } catch (error) {
          if (question === this._answered) {
            throw error;
          }
          continue;
        }
        if (this.isDisposed || question !== this._answered || begun !== this._begun) {
          // Another list is shown by now, which may lack something itself.
          continue;
        }
        const isInOrder = question.sort === null;
        const isKnown = this._pages.has(wanted.at);
        const isNew = page.runs.length > 0;
        if (!isKnown) {
          this._pages.append(this._isHeld ? this._unknown(page) : page.runs, page.next);
        } else if (this._isHeld && this._pages.isHeldAt(wanted.at)) {
          this._wait(wanted, page);
        } else if (
          wanted.at === 0 &&
          this._shown.first >= wanted.size &&
          isNew &&
          !this._follows(page)
        ) {
          // More has come than a page holds, far from what is in sight: it is looked at when it is scrolled to.
          this._pages.setFresh(0);
        } else {
          this._pages.replace(wanted.at, page.runs, page.next, isInOrder);
        }
        this._count = page.count;
        this._meet(page.runs);
        this._pages.trim(this._shown.first, this._shown.last, MOST_HELD);
        this.emit();
      }
      return this._answered !== null;
    } finally {
      this._isFilling = false;
    }
  }

  private _wanted() {
    const { first, last } = this._shown;
    const head = this._answered?.sort === null ? this._pages.staleHead : null;
    return head ?? this._pages.wanted(Math.max(0, first - PAGE), last + AHEAD);
  }

  /** Tell runs anew without moving any, and keep in mind what would stand elsewhere. */
  private _wait(wanted: IWanted, { runs }: IRunList): void {
    const { fresh, isMoved } = this._pages.renew(wanted.at, runs);
    // What was asked for goes on behind the end of the page, where others follow that have not been looked at yet.
    const shown = new Set(runs.slice(0, wanted.size).map(each => each.run.id));
    fresh.filter(each => shown.has(each.run.id)).forEach(each => this._fresh.add(each.run.id));
    this._isMoved = this._isMoved || isMoved;
  }

  /** The runs of a page that are not in the list: in a list that is held, others may have moved behind its end. */
  private _unknown({ runs }: IRunList): ReadonlyArray<IRunSummary> {
    return runs.filter(each => this._pages.indexOf(each.run.id) < 0);
  }

  private _takeAll(): void {
    this._isMoved = false;
    this._fresh.clear();
  }

  /** Whether the run that the list begins with is on a page. */
  private _follows({ runs }: IRunList): boolean {
    const known = this.first?.run.id;
    return known === undefined || runs.some(each => each.run.id === known);
  }

  private async _findBest(question: IRunsQuestion): Promise<void> {
    const { path, notebookId, goal, metric } = question;
    if (goal === null) {
      this._best = null;
      return;
    }
    const query = "state = 'succeeded'";
    try {
      const asked = { path, notebookId, query, sort: goal, metric, limit: 1 };
      const [first] = (await this.client.runs(asked)).runs;
      if (!this.isDisposed && question === this._answered) {
        this._best = first?.metric?.name === metric ? first.run.id : null;
      }
    } catch (error) {
      if (question === this._answered) {
        throw error;
      }
    }
  }

  private _ask(
    { path, notebookId, query, sort, metric }: IRunsQuestion,
    before: string | null,
    limit: number
  ): Promise<IRunList> {
    const given = query.trim() || null;
    return this.client.runs({ path, notebookId, query: given, sort, metric, before, limit });
  }

  private _meet(runs: ReadonlyArray<IRunSummary>): void {
    runs.forEach(({ run }) => run.user !== null && this._users.add(run.user));
  }

  private _answered: IRunsQuestion | null = null;
  private _begun = 0;
  private _best: string | null = null;
  private _count = 0;
  private _fresh = new Set<string>();
  private _isFilling = false;
  private _isHeld = false;
  private _isMoved = false;
  private _isToBeginAnew = false;
  private _pages = new Pages<IRunSummary>();
  private _question: IRunsQuestion = ALL;
  private _refused: IRefused | null = null;
  private _shown = { first: 0, last: 0 };
  private _users = new Set<string>();
}
