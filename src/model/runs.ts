/**
 * The runs that the sidebar lists: any number of them, filtered and sorted, of which those around the sight are held.
 */

import { isUnfinished } from './query';
import { Listing } from './listing';
import { Pages } from './pages';
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
      this._answered = null;
      this._best = null;
      this._users.clear();
      this.forget();
    } else {
      this.emit();
    }
    void this.attempt(() => this.load());
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

  protected async load(): Promise<void> {
    const question = this._question;
    if (question === this._answered && !this._pages.isEmpty) {
      this._pages.setStale();
      await Promise.all([this._fill(), this._findBest(question)]);
      return;
    }
    let page: IRunList;
    try {
      page = await this._ask(question, null, PAGE);
    } catch (error) {
      if (question !== this._question) {
        return;
      }
      if (!(error instanceof Refusal) || error.problem.place === null || !question.query) {
        throw error;
      }
      const { place } = error.problem;
      this._refused = {
        query: question.query,
        message: error.message,
        place,
        isUnfinished: isUnfinished(question.query, place)
      };
      return;
    }
    if (this.isDisposed || question !== this._question) {
      return;
    }
    this._refused = null;
    this._answered = question;
    this._count = page.count;
    this._pages.reset(page.runs, page.next);
    this._meet(page.runs);
    this.emit();
    await this._findBest(question);
  }

  /** Ask for page after page until what is in sight is there, and what is new at the front. */
  private async _fill(): Promise<void> {
    if (this._isFilling) {
      return;
    }
    this._isFilling = true;
    try {
      let wanted = this._wanted();
      while (wanted && !this.isDisposed && this._answered === this._question) {
        const question = this._question;
        const limit = wanted.size ? Math.min(LARGEST_PAGE, wanted.size + PAGE) : LARGEST_PAGE;
        const page = await this._ask(question, wanted.before, limit);
        if (this.isDisposed || question !== this._question) {
          return;
        }
        const isInOrder = question.sort === null;
        const isKnown = wanted.size > 0;
        const isNew = page.runs.length > 0;
        if (!isKnown) {
          this._pages.append(page.runs, page.next);
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
        wanted = this._wanted();
      }
    } finally {
      this._isFilling = false;
    }
  }

  private _wanted() {
    const { first, last } = this._shown;
    const head = this._question.sort === null ? this._pages.staleHead : null;
    return head ?? this._pages.wanted(Math.max(0, first - PAGE), last + AHEAD);
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
    const found = await this.client.runs({ path, notebookId, query, sort: goal, metric, limit: 1 });
    if (!this.isDisposed && question === this._question) {
      const [first] = found.runs;
      this._best = first?.metric?.name === metric ? first.run.id : null;
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
  private _best: string | null = null;
  private _count = 0;
  private _isFilling = false;
  private _pages = new Pages<IRunSummary>();
  private _question: IRunsQuestion = ALL;
  private _refused: IRefused | null = null;
  private _shown = { first: 0, last: 0 };
  private _users = new Set<string>();
}
