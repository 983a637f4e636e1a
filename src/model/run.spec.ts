import { Signal } from '@lumino/signaling';

import type { Client, IItemsQuestion } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IExecution, IFanOut, INews, IRunDetail } from '../api/schema';
import { RunModel } from './run';

const TOTAL = 250;
const WHOLE = {
  id: 'whole',
  state: 'succeeded',
  part_of: null,
  ended: 1,
  fanout: {
    total: TOTAL,
    failed: 1,
    slowest: 7,
    succeeded: TOTAL - 1,
    reused: 0,
    cancelled: 0
  } as IFanOut
} as IExecution;

/** A server with a run whose one step is a fan-out; its item 150 has failed. */
class Server {
  async run(): Promise<IRunDetail> {
    return { run: { state: 'succeeded' }, executions: [WHOLE], edges: [] } as unknown as IRunDetail;
  }

  async execution(id: string): Promise<IExecution> {
    return { ...WHOLE, id };
  }

  async items(_: string, { state, after = -1, limit = 200 }: IItemsQuestion) {
    const numbers = Array.from({ length: TOTAL }, (_, at) => at).filter(
      at => at > after && (state !== 'failed' || at === 150)
    );
    return numbers
      .slice(0, limit)
      .map(item => ({ id: `i${item}`, item, part_of: 'whole', state: 'succeeded' }) as IExecution);
  }

  async loggedItems() {
    return { items: [], counts: {}, logged: 0, next: null };
  }
}

const settled = () => new Promise(resolve => setTimeout(resolve));

describe('the items of a fan-out on the page of its run', () => {
  it('are those that failed and the slowest, and all of them when more are asked for', async () => {
    const feed = { arrived: new Signal<object, INews>({}) };
    const run = new RunModel(
      'run',
      null,
      new Server() as unknown as Client,
      feed as unknown as NewsFeed
    );
    await new Promise(resolve =>
      run.changed.connect(() => run.fold('whole').items.length && resolve(null))
    );
    await settled();
    const listed = () => run.fold('whole').items.map(({ item }) => item);
    expect(listed()).toEqual([150, 7]);
    expect(run.restOf(WHOLE)).toBe(100);
    expect(run.restOf({ ...WHOLE, ended: null })).toBe(0);
    await run.showMoreItems(WHOLE);
    expect(listed()).toHaveLength(101);
    expect(listed().slice(0, 4)).toEqual([150, 7, 0, 1]);
    await run.showMoreItems(WHOLE);
    await run.showMoreItems(WHOLE);
    expect(listed()).toHaveLength(TOTAL);
    expect(run.restOf(WHOLE)).toBe(0);
    run.dispose();
  });
});
