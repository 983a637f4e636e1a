import { Signal } from '@lumino/signaling';

import type { Client } from '../api/client';
import type { NewsFeed } from '../api/news';
import type { IDifference, INews, IRunDetail } from '../api/schema';
import { ComparisonModel } from './comparison';

class Server {
  state = 'running';
  compared = 0;

  async difference(after: string, before: string): Promise<IDifference> {
    this.compared += 1;
    return { before, after } as IDifference;
  }

  async run(id: string): Promise<IRunDetail> {
    const isLater = id === LATER;
    const state = isLater ? this.state : 'succeeded';
    return { run: { id, state, started: isLater ? 2 : 1 } } as IRunDetail;
  }
}

class Feed {
  readonly arrived = new Signal<this, INews>(this);

  tell(news: object): void {
    this.arrived.emit({ run: null, body: {}, ...news } as unknown as INews);
  }
}

const EARLIER = 'a'.repeat(26);
const LATER = 'b'.repeat(26);

async function made(
  state: string
): Promise<{ server: Server; feed: Feed; model: ComparisonModel }> {
  const server = new Server();
  server.state = state;
  const feed = new Feed();
  const [client, news] = [server as unknown as Client, feed as unknown as NewsFeed];
  const model = new ComparisonModel(LATER, EARLIER, null, client, news);
  await jest.advanceTimersByTimeAsync(0);
  expect(model.compared?.after.run.id).toBe(LATER);
  return { server, feed, model };
}

describe('ComparisonModel', () => {
  beforeEach(() => {
    jest.useFakeTimers();
  });

  afterEach(() => {
    jest.useRealTimers();
  });

  it('compares anew when all may have changed, but not as often as that is said', async () => {
    const { server, feed } = await made('succeeded');
    for (const type of ['changed', 'reset']) {
      const known = server.compared;
      for (let second = 0; second < 9; second += 1) {
        feed.tell({ type });
        await jest.advanceTimersByTimeAsync(1000);
      }
      expect(server.compared).toBe(known);
      await jest.advanceTimersByTimeAsync(1500);
      expect(server.compared).toBe(known + 1);
    }
  });

  it('asks nothing while its page is out of sight, and once when it is seen again', async () => {
    const { server, feed, model } = await made('running');
    model.isInSight = false;
    server.state = 'succeeded';
    feed.tell({ type: 'execution', run: LATER });
    feed.tell({ type: 'run', run: LATER, body: { run: { state: 'succeeded' } } });
    await jest.advanceTimersByTimeAsync(30000);
    expect(server.compared).toBe(1);
    model.isInSight = true;
    await jest.advanceTimersByTimeAsync(1500);
    expect(server.compared).toBe(2);
    model.isInSight = false;
    model.isInSight = true;
    await jest.advanceTimersByTimeAsync(30000);
    expect(server.compared).toBe(2);
  });

  it('compares at most each ten seconds while a run is under way, and soon after its end', async () => {
    const { server, feed } = await made('running');
    for (let second = 0; second < 9; second += 1) {
      feed.tell({ type: 'execution', run: LATER });
      await jest.advanceTimersByTimeAsync(1000);
    }
    expect(server.compared).toBe(1);
    await jest.advanceTimersByTimeAsync(1500);
    expect(server.compared).toBe(2);
    server.state = 'succeeded';
    feed.tell({ type: 'run', run: LATER, body: { run: { state: 'succeeded' } } });
    await jest.advanceTimersByTimeAsync(1500);
    expect(server.compared).toBe(3);
  });

  it('does not hear the news of other runs', async () => {
    const { server, feed } = await made('succeeded');
    feed.tell({ type: 'run', run: 'c'.repeat(26) });
    await jest.advanceTimersByTimeAsync(15000);
    expect(server.compared).toBe(1);
  });
});
