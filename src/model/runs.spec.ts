import { Signal } from '@lumino/signaling';

import { Client, IRunsQuestion as IAsked, Refusal } from '../api/client';
import { NewsFeed } from '../api/news';
import type { INews, IRunList, IRunSummary } from '../api/schema';
import { IRunsQuestion, RunsModel } from './runs';

/** A server with runs, newest first, that counts what it is asked. */
class Server {
  constructor(many: number) {
    this.ids = Array.from({ length: many }, (_, at) => `run ${many - at}`);
  }

  ids: string[];
  /** What each run has logged. */
  value = 1;
  /** The run that comes last in whatever order. */
  last: string | null = null;
  readonly asked: IAsked[] = [];

  /** Answers are held back while it is set. */
  gate: Promise<void> | null = null;

  /** Hold answers back until what is returned is called. */
  close(): () => void {
    let open: () => void = () => undefined;
    this.gate = new Promise(resolve => {
      open = resolve;
    });
    return open;
  }

  async runs(question: IAsked): Promise<IRunList> {
    this.asked.push(question);
    await this.gate;
    if (question.query?.startsWith('metric.')) {
      const problem = { message: 'metric. is nothing', remedy: null, type: 'QueryError', place: 0 };
      throw new Refusal(400, problem);
    }
    const ids = question.query ? this.ids.filter(each => each.endsWith('7')) : [...this.ids];
    if (question.sort) {
      ids.sort();
    }
    if (this.last !== null) {
      ids.push(...ids.splice(ids.indexOf(this.last), 1));
    }
    const start = question.before ? ids.indexOf(question.before) + 1 : 0;
    const shown = ids.slice(start, start + (question.limit ?? 50));
    const isEnd = start + shown.length >= ids.length;
    return {
      runs: shown.map(id => {
        const metric = { name: question.metric ?? 'auc', value: this.value };
        return { run: { id, user: 'ann' }, metric } as IRunSummary;
      }),
      count: ids.length,
      next: isEnd ? null : shown[shown.length - 1]
    };
  }
}

class Feed {
  readonly arrived = new Signal<this, INews>(this);

  tell(): void {
    this.arrived.emit({ type: 'run', run: 'x' } as unknown as INews);
  }
}

const ALL: IRunsQuestion = {
  path: 'a.ipynb',
  notebookId: null,
  query: '',
  sort: null,
  goal: null,
  metric: null
};

function started(many: number): { server: Server; feed: Feed; runs: RunsModel } {
  const server = new Server(many);
  const feed = new Feed();
  const runs = new RunsModel(server as unknown as Client, feed as unknown as NewsFeed);
  return { server, feed, runs };
}

/** Wait until something holds of a model that tells of its changes. */
function until(runs: RunsModel, holds: () => boolean): Promise<void> {
  return new Promise(resolve => {
    const look = () => {
      if (holds()) {
        runs.changed.disconnect(look);
        resolve();
      }
    };
    runs.changed.connect(look);
    look();
  });
}

const idAt = (runs: RunsModel, at: number) => runs.slice(at, at + 1)[0]?.run.id;

describe('RunsModel', () => {
  it('goes through all runs, and holds only those around the sight', async () => {
    const { runs } = started(5000);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    expect([runs.length, runs.count]).toEqual([50, 5000]);
    while (runs.hasMore) {
      const known = runs.length;
      runs.show(known - 10, known);
      await until(runs, () => runs.length > known);
    }
    expect(runs.length).toBe(5000);
    expect(idAt(runs, 4999)).toBe('run 1');
    expect(idAt(runs, 0)).toBeUndefined();
    runs.show(0, 10);
    await until(runs, () => idAt(runs, 0) !== undefined);
    expect(idAt(runs, 0)).toBe('run 5000');
    expect(runs.length).toBe(5000);
    expect(runs.slice(0, 5000).filter(each => each !== null).length).toBeLessThanOrEqual(2000);
  });

  it('takes new runs at the front, and keeps all that was scrolled to', async () => {
    const { server, feed, runs } = started(400);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    runs.show(40, 50);
    await until(runs, () => runs.length > 50);
    const known = runs.length;
    server.ids.unshift('new 2', 'new 1');
    feed.tell();
    await until(runs, () => runs.length === known + 2);
    expect([idAt(runs, 0), idAt(runs, 2), idAt(runs, known + 1)]).toEqual([
      'new 2',
      'run 400',
      `run ${400 - known + 1}`
    ]);
    expect(runs.indexOf('run 360')).toBe(42);
    expect(runs.count).toBe(402);
  });

  it('takes the first run of a notebook that had none, and asks no more than that', async () => {
    const { server, feed, runs } = started(0);
    runs.question = ALL;
    await until(runs, () => runs.isLoaded);
    const before = server.asked.length;
    server.ids = ['run 1'];
    feed.tell();
    await until(runs, () => idAt(runs, 0) === 'run 1');
    await new Promise(resolve => setTimeout(resolve, 0));
    expect(runs.length).toBe(1);
    expect(server.asked.length - before).toBeLessThan(4);
  });

  it('stays with what is listed while a query cannot be read, and says where', async () => {
    const { runs } = started(100);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    runs.question = { ...ALL, query: 'metric.rmse < 12' };
    await until(runs, () => runs.refused !== null);
    expect(runs.refused).toMatchObject({ place: 0, isUnfinished: false });
    expect(runs.error).toBeNull();
    expect([runs.length, runs.isFiltered]).toEqual([50, false]);
    runs.question = { ...ALL, query: 'name = 7' };
    expect(runs.refused).toBeNull();
    await until(runs, () => runs.isFiltered);
    expect([runs.count, idAt(runs, 0)]).toEqual([10, 'run 97']);
  });

  it('follows the news and the scrolling while a query is refused', async () => {
    const { server, feed, runs } = started(400);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    runs.question = { ...ALL, query: 'metric.rmse < 12' };
    await until(runs, () => runs.refused !== null);
    runs.show(30, 50);
    await until(runs, () => runs.length > 50);
    server.ids.unshift('new');
    feed.tell();
    await until(runs, () => idAt(runs, 0) === 'new');
    expect(runs.refused).not.toBeNull();
    expect(runs.count).toBe(401);
  });

  it('takes the news that came while a query was being refused', async () => {
    const { server, feed, runs } = started(0);
    runs.question = ALL;
    await until(runs, () => runs.isLoaded);
    const open = server.close();
    runs.question = { ...ALL, query: 'metric.rmse < 12' };
    server.ids.unshift('first');
    feed.tell();
    open();
    await until(runs, () => idAt(runs, 0) === 'first');
    expect(runs.refused).not.toBeNull();
  });

  it('knows nothing of another notebook before its answer', async () => {
    const { server, runs } = started(100);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    const open = server.close();
    runs.question = { ...ALL, path: 'b.ipynb' };
    runs.question = { ...ALL, path: 'c.ipynb' };
    expect([runs.count, runs.isLoaded]).toEqual([0, false]);
    open();
    const later = server.close();
    await new Promise(resolve => setTimeout(resolve, 0));
    expect([runs.count, runs.isLoaded]).toEqual([100, true]);
    runs.question = { ...ALL, path: 'd.ipynb' };
    open();
    runs.question = { ...ALL, path: 'e.ipynb' };
    await Promise.resolve();
    expect([runs.count, runs.isLoaded]).toEqual([0, false]);
    later();
    await until(runs, () => runs.isLoaded);
    expect(runs.answered?.path).toBe('e.ipynb');
  });

  it('asks for what is in sight of a list that came while another one was filled', async () => {
    const { server, runs } = started(400);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    const open = server.close();
    runs.show(40, 50);
    server.gate = null;
    runs.question = { ...ALL, sort: 'name' };
    await until(runs, () => !runs.isBehind);
    runs.show(40, 50);
    open();
    await until(runs, () => runs.length > 50);
    expect(idAt(runs, 0)).toBe('run 1');
    expect(idAt(runs, 60)).toBe([...server.ids].sort()[60]);
  });

  it('does not show the answer to a question that is no longer asked', async () => {
    const { server, runs } = started(100);
    let open: () => void = () => undefined;
    server.gate = new Promise(resolve => {
      open = resolve;
    });
    runs.question = { ...ALL, query: 'name = 7' };
    runs.question = ALL;
    open();
    await until(runs, () => runs.length > 0);
    await Promise.resolve();
    expect([runs.count, runs.isFiltered, runs.isBehind]).toEqual([100, false, false]);
  });

  it('knows the best run once it has been said what the best is', async () => {
    const { server, runs } = started(100);
    runs.question = { ...ALL, sort: 'metrics.rmse', goal: 'metrics.rmse', metric: 'rmse' };
    await until(runs, () => runs.best !== null);
    expect(runs.best).toBe('run 17');
    const { query, limit } = server.asked[server.asked.length - 1];
    expect([query, limit]).toEqual(["state = 'succeeded'", 1]);
  });

  it('moves no run while somebody points at one, and says what is new', async () => {
    const { server, feed, runs } = started(100);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    runs.hold(true);
    server.ids.unshift('new 2', 'new 1');
    feed.tell();
    await until(runs, () => runs.waiting !== null);
    expect([idAt(runs, 0), idAt(runs, 49), runs.length]).toEqual(['run 100', 'run 51', 50]);
    expect(runs.waiting).toEqual({ fresh: 2 });
    expect(runs.count).toBe(102);
    runs.hold(false);
    await until(runs, () => idAt(runs, 0) === 'new 2');
    expect([runs.waiting, idAt(runs, 2), idAt(runs, 51)]).toEqual([null, 'run 100', 'run 51']);
  });

  it('keeps what was scrolled to when runs that waited take their places', async () => {
    const { server, feed, runs } = started(400);
    runs.question = ALL;
    await until(runs, () => runs.length > 0);
    runs.show(40, 50);
    await until(runs, () => runs.length > 50);
    const known = runs.length;
    runs.show(0, 10);
    runs.hold(true);
    server.ids.unshift('new');
    feed.tell();
    await until(runs, () => runs.waiting !== null);
    runs.hold(false);
    await until(runs, () => idAt(runs, 0) === 'new');
    expect([runs.length, idAt(runs, known)]).toEqual([known + 1, `run ${400 - known + 1}`]);
  });

  it('keeps an order that has changed from the sight until it is asked for, but not what runs say', async () => {
    const { server, feed, runs } = started(60);
    runs.question = { ...ALL, sort: 'metrics.rmse', metric: 'rmse' };
    await until(runs, () => runs.length > 0);
    const before = runs.slice(0, 50).map(each => each?.run.id);
    runs.hold(true);
    server.ids.push('a run');
    server.value = 2;
    feed.tell();
    await until(runs, () => runs.waiting !== null);
    expect(runs.slice(0, 50).map(each => each?.run.id)).toEqual(before);
    expect(runs.slice(0, 1)[0]?.metric?.value).toBe(2);
    expect(runs.waiting).toEqual({ fresh: 1 });
    runs.showWaiting();
    await until(runs, () => idAt(runs, 0) === 'a run');
    expect(runs.waiting).toBeNull();
  });

  it('shows a new order at once where nobody points at a run', async () => {
    const { server, feed, runs } = started(60);
    runs.question = { ...ALL, sort: 'name' };
    await until(runs, () => runs.length > 0);
    server.ids.push('a run');
    feed.tell();
    await until(runs, () => idAt(runs, 0) === 'a run');
    expect(runs.waiting).toBeNull();
  });

  it('does not list a run twice that has moved behind the end of a list that is held', async () => {
    const { server, runs, feed } = started(120);
    runs.question = { ...ALL, sort: 'name' };
    await until(runs, () => runs.length > 0);
    const [first] = runs.slice(0, 1);
    runs.hold(true);
    server.ids = server.ids.map(each => (each === first?.run.id ? 'z' : each));
    server.ids.push(`${first?.run.id}`);
    server.last = first?.run.id ?? null;
    feed.tell();
    runs.show(40, 50);
    await until(runs, () => !runs.hasMore);
    const ids = runs.slice(0, runs.length).map(each => each?.run.id);
    expect(new Set(ids).size).toBe(ids.length);
  });
});
