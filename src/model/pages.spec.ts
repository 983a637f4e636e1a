import { Pages } from './pages';

const entry = (number: number) => ({ run: { id: `r${number}` } });
const entries = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, at) => entry(from + at));
const ids = (pages: Pages<{ run: { id: string } }>) =>
  pages.slice(0, pages.length).map(each => each?.run.id ?? null);

/** Three pages of four. */
function three(): Pages<{ run: { id: string } }> {
  const pages = new Pages<{ run: { id: string } }>();
  pages.reset(entries(0, 4), 'after 3');
  pages.append(entries(4, 8), 'after 7');
  pages.append(entries(8, 12), null);
  return pages;
}

describe('Pages', () => {
  it('asks for the next page when its end comes in sight', () => {
    const pages = new Pages<{ run: { id: string } }>();
    pages.reset(entries(0, 4), 'after 3');
    expect(pages.wanted(0, 3)).toBeNull();
    expect(pages.wanted(0, 4)).toEqual({ at: 1, before: 'after 3', size: 0 });
    pages.append(entries(4, 6), null);
    expect(pages.wanted(2, 6)).toBeNull();
    expect(pages.length).toBe(6);
  });

  it('takes what is new at the front without losing what follows', () => {
    const pages = three();
    pages.setStale();
    expect(pages.staleHead).toEqual({ at: 0, before: null, size: 4 });
    const now = [entry(100), ...entries(0, 8)];
    expect(pages.replace(0, now, 'after 7', true)).toBe(true);
    expect(ids(pages)).toEqual(['r100', ...entries(0, 12).map(each => each.run.id)]);
    expect(pages.indexOf('r5')).toBe(6);
    expect(pages.wanted(0, 5)).toBeNull();
    expect(pages.wanted(0, 6)).toMatchObject({ at: 1, before: 'after 3' });
  });

  it('forgets what follows a page of which the end is gone', () => {
    const pages = three();
    pages.setStale();
    expect(pages.replace(1, [entry(4), entry(6), entry(50)], 'after 50', true)).toBe(false);
    expect(ids(pages)).toEqual(['r0', 'r1', 'r2', 'r3', 'r4', 'r6', 'r50']);
    expect(pages.hasMore).toBe(true);
    pages.setFresh(0);
    expect(pages.wanted(0, 7)).toEqual({ at: 2, before: 'after 50', size: 0 });
  });

  it('has nothing twice where entries change places', () => {
    const pages = three();
    expect(pages.replace(1, [entry(4), entry(1), entry(5), entry(6)], 'after 6', false)).toBe(
      false
    );
    expect(ids(pages)).toEqual(['r0', 'r2', 'r3', 'r4', 'r1', 'r5', 'r6']);
  });

  it('holds no more than it should, and asks again for what comes in sight', () => {
    const pages = three();
    pages.trim(8, 12, 8);
    expect(pages.held).toBe(8);
    expect(ids(pages).slice(0, 5)).toEqual([null, null, null, null, 'r4']);
    expect(pages.length).toBe(12);
    expect(pages.wanted(3, 6)).toEqual({ at: 0, before: null, size: 4 });
    pages.replace(0, entries(0, 8), 'after 7', true);
    expect(ids(pages)).toEqual(entries(0, 12).map(each => each.run.id));
  });
});
