/**
 * A long list of which only some pages are held: each is known by the place after which it begins.
 */

/** What a list is made of. */
export interface IEntry {
  readonly run: { readonly id: string };
}

interface IPage<T extends IEntry> {
  /** After which place it begins; null for the first. */
  readonly before: string | null;
  readonly size: number;
  /** Its last entry, which tells where it ends when it is asked for again. */
  readonly last: string;
  /** Null while it is far from what is in sight. */
  readonly rows: ReadonlyArray<T> | null;
  readonly isStale: boolean;
}

/** A page that is to be asked for: the one at a number, or the next one. */
export interface IWanted {
  readonly at: number;
  readonly before: string | null;
  /** How many entries it had. */
  readonly size: number;
}

export class Pages<T extends IEntry> {
  get length(): number {
    return this._pages.reduce((sum, page) => sum + page.size, 0);
  }

  /** Whether more entries follow than have ever been asked for. */
  get hasMore(): boolean {
    return this._next !== null;
  }

  get isEmpty(): boolean {
    return this._pages.length === 0;
  }

  /** Whether there is a page with a number, be it empty. */
  has(at: number): boolean {
    return at < this._pages.length;
  }

  /** Whether there is a page with a number whose entries are held, at least one. */
  isHeldAt(at: number): boolean {
    return Boolean(this._pages[at]?.rows?.length);
  }

  /** How many entries are held. */
  get held(): number {
    return this._pages.reduce((sum, page) => sum + (page.rows?.length ?? 0), 0);
  }

  /** Entries from one number to another; null for those that are not held. */
  slice(first: number, last: number): ReadonlyArray<T | null> {
    const found: (T | null)[] = [];
    let start = 0;
    for (const { rows, size } of this._pages) {
      for (let at = Math.max(first, start); at < Math.min(last, start + size); at += 1) {
        found.push(rows?.[at - start] ?? null);
      }
      start += size;
    }
    return found;
  }

  /** The number of an entry; -1 for one that is not held. */
  indexOf(id: string): number {
    let start = 0;
    for (const { rows, size } of this._pages) {
      const at = rows?.findIndex(each => each.run.id === id) ?? -1;
      if (at >= 0) {
        return start + at;
      }
      start += size;
    }
    return -1;
  }

  /** Begin anew with a first page. */
  reset(rows: ReadonlyArray<T>, next: string | null): void {
    this._pages = [];
    this._next = null;
    this.append(rows, next);
  }

  /** Forget all of it. */
  clear(): void {
    this._pages = [];
    this._next = null;
  }

  /** Add the page that follows. */
  append(rows: ReadonlyArray<T>, next: string | null): void {
    const before = this._next;
    this._next = next;
    this._put(this._pages.length, before, rows);
  }

  /**
   * Put in place what a page holds now; what was asked for begins where it does, and may go on behind its end.
   *
   * @param isInOrder - whether entries never change places: then its last one still is where it ends.
   * @returns whether the pages behind it still follow; if not, they are forgotten.
   */
  replace(at: number, rows: ReadonlyArray<T>, next: string | null, isInOrder: boolean): boolean {
    const page = this._pages[at];
    const end = isInOrder ? rows.findIndex(each => each.run.id === page.last) : -1;
    if (end < 0) {
      this._pages.length = at + 1;
      this._next = next;
    }
    this._put(at, page.before, end < 0 ? rows : rows.slice(0, end + 1));
    return end >= 0;
  }

  /**
   * Take what a page holds now, but leave every entry in its place: those that are known are told anew, no other
   * comes, none goes.
   *
   * @returns the entries that are not known, and whether those of the page would stand otherwise.
   */
  renew(at: number, rows: ReadonlyArray<T>): { fresh: ReadonlyArray<T>; isMoved: boolean } {
    const now = new Map(rows.map(each => [each.run.id, each]));
    const known = new Set(this._pages.flatMap(each => each.rows ?? []).map(each => each.run.id));
    const page = this._pages[at];
    const isMoved = (page.rows ?? []).some((each, place) => each.run.id !== rows[place]?.run.id);
    this._pages = this._pages.map((each, place) => ({
      ...each,
      rows: each.rows?.map(row => now.get(row.run.id) ?? row) ?? null,
      isStale: each.isStale && place !== at
    }));
    return { fresh: rows.filter(each => !known.has(each.run.id)), isMoved };
  }

  /** Take it that all of it may have changed. */
  setStale(): void {
    this._pages = this._pages.map(page => ({ ...page, isStale: true }));
  }

  /** Take a page as it is until all may have changed again. */
  setFresh(at: number): void {
    this._pages[at] = { ...this._pages[at], isStale: false };
  }

  /** The first page to be asked for so that some entries can be seen as they are, with the one behind them. */
  wanted(first: number, last: number): IWanted | null {
    let start = 0;
    for (const [at, { before, size, rows, isStale }] of this._pages.entries()) {
      if ((isStale || !rows) && start < last && start + size > first) {
        return { at, before, size };
      }
      start += size;
    }
    return this.hasMore && last >= start
      ? { at: this._pages.length, before: this._next, size: 0 }
      : null;
  }

  /** The first page, if it may have changed. */
  get staleHead(): IWanted | null {
    const [head] = this._pages;
    return head?.isStale ? { at: 0, before: null, size: head.size } : null;
  }

  /** Let go of what is furthest from some entries, until no more than a number are held. */
  trim(first: number, last: number, most: number): void {
    const middle = (first + last) / 2;
    let start = 0;
    const far = this._pages.map(({ size }, at) => {
      start += size;
      return { at, distance: Math.abs(start - size / 2 - middle) };
    });
    far.sort((one, other) => other.distance - one.distance);
    let held = this.held;
    for (const { at } of far) {
      if (held <= most) {
        return;
      }
      held -= this._pages[at].rows?.length ?? 0;
      this._pages[at] = { ...this._pages[at], rows: null };
    }
  }

  private _put(at: number, before: string | null, rows: ReadonlyArray<T>): void {
    const ids = new Set(rows.map(each => each.run.id));
    this._pages = this._pages.map((page, place) => {
      // What has come here has left where it was.
      const kept = place === at ? page.rows : page.rows?.filter(each => !ids.has(each.run.id));
      return kept && kept.length !== page.rows?.length
        ? { ...page, rows: kept, size: kept.length }
        : page;
    });
    const last = rows[rows.length - 1]?.run.id ?? '';
    this._pages[at] = { before, size: rows.length, last, rows, isStale: false };
  }

  private _next: string | null = null;
  private _pages: IPage<T>[] = [];
}
