import type { Client, IItemsQuestion } from '../api/client';
import type { IExecution, IFanOut, IItemList } from '../api/schema';
import { LoggedItems } from './logged';

/** A server whose fan-out has items that logged two artifacts each. */
class Server {
  constructor(readonly count: number) {}

  async loggedItems(id: string, question: IItemsQuestion): Promise<IItemList> {
    this.asked.push(question);
    if (this.isAway) {
      throw new Error('It is away.');
    }
    const first = (question.after ?? -1) + 1;
    const items = Array.from(
      { length: Math.min(question.limit ?? 200, this.count - first) },
      (_, at) => ({ id: `${id}-${first + at}`, item: first + at, artifacts: [{}, {}] })
    ) as unknown as IExecution[];
    const next = items.length === question.limit ? items[items.length - 1].item : null;
    return { items, counts: {}, logged: 2 * this.count, next };
  }

  asked: IItemsQuestion[] = [];
  isAway = false;
}

function fanOut(state: IExecution['state'], succeeded: number): IExecution {
  const counts = { succeeded, reused: 0, failed: 0, cancelled: 0, skipped: 0 };
  return { id: 'e1', state, fanout: counts as unknown as IFanOut } as IExecution;
}

const PLAIN = { id: 'e0', state: 'succeeded', fanout: null } as unknown as IExecution;

/** Let all answers come. */
const settled = () => new Promise(resolve => setTimeout(resolve));

function start(count: number): { readonly server: Server; readonly logged: LoggedItems } {
  const server = new Server(count);
  return { server, logged: new LoggedItems(server as unknown as Client, null, () => undefined) };
}

describe('what the items of a fan-out logged', () => {
  it('comes in one question of few items, however many there are, and more when asked for', async () => {
    const { server, logged } = start(20_000);
    logged.update([PLAIN, fanOut('succeeded', 20_000)], false);
    await settled();
    expect(server.asked).toEqual([{ limit: 24 }]);
    expect(logged.of('e1').items.length).toBe(24);
    expect(logged.count).toBe(40_000);
    await logged.more('e1');
    expect(server.asked[1]).toEqual({ after: 23, limit: 96 });
    expect(logged.of('e1').items.map(each => each.item)).toEqual(
      Array.from({ length: 120 }, (_, at) => at)
    );
    expect(logged.of('e1').next).toBe(119);
    expect(logged.of('e0').items).toEqual([]);
  });

  it('is asked for while items are under way only if it is seen, and again when they have ended', async () => {
    const { server, logged } = start(3);
    logged.update([fanOut('running', 1)], false);
    expect(server.asked).toEqual([]);
    logged.update([fanOut('running', 2)], true);
    logged.update([fanOut('running', 2)], true);
    expect(server.asked.length).toBe(1);
    logged.update([fanOut('succeeded', 3)], false);
    logged.update([fanOut('succeeded', 3)], true);
    await settled();
    expect(server.asked.length).toBe(2);
    expect(logged.of('e1').next).toBe(null);
  });

  it('stays when the server is away, which is said, and is asked for again', async () => {
    const { server, logged } = start(100);
    logged.update([fanOut('succeeded', 100)], true);
    await settled();
    server.isAway = true;
    await logged.more('e1');
    expect(logged.of('e1').items.length).toBe(24);
    expect(logged.of('e1').error).toContain('It is away.');
    server.isAway = false;
    await logged.more('e1');
    expect(logged.of('e1')).toMatchObject({ count: 200, next: null, error: null });
    expect(logged.of('e1').items.length).toBe(100);
  });
});
