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
  readonly asked: IAsked[] = [];

  /** Answers are held back while it is set. */
  gate: Promise<void> | null = null;

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
    const start = question.before ? ids.indexOf(question.before) + 1 : 0;
    const shown = ids.slice(start, start + (question.limit ?? 50));
    const isEnd = start + shown.length >= ids.length;
    return {
      runs: shown.map(id => {
        const metric = { name: question.metric ?? 'auc', value: 1 };
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
});
