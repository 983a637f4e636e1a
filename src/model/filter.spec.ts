import type { IStateDB } from '@jupyterlab/statedb';
import { Signal } from '@lumino/signaling';

import type { Client } from '../api/client';
import { FilterModel } from './filter';
import type { IRefused, IRunsQuestion, RunsModel } from './runs';

class Runs {
  readonly changed = new Signal<this, void>(this);
  question: Partial<IRunsQuestion> = {};
  refused: IRefused | null = null;
}

const NAMES = ['metrics.rmse', 'metrics.r2', 'params.origin', 'state', 'started'];

function made(saved: { [key: string]: unknown } = {}): { runs: Runs; filter: FilterModel } {
  const runs = new Runs();
  const client = {
    completions: async (prefix: string) => NAMES.filter(each => each.startsWith(prefix))
  };
  const state = {
    fetch: async (key: string) => saved[key],
    save: async (key: string, value: unknown) => {
      saved[key] = value;
    }
  };
  const filter = new FilterModel(
    client as unknown as Client,
    runs as unknown as RunsModel,
    state as unknown as IStateDB
  );
  return { runs, filter };
}

const settled = () => new Promise<void>(resolve => setTimeout(resolve, 0));
const scope = (path: string | null) => ({ path, notebookId: null });

describe('FilterModel', () => {
  it('completes the name at the caret', async () => {
    const { filter } = made();
    filter.scope = scope('a.ipynb');
    await settled();
    filter.type({ text: 'metrics.r', caret: 9 });
    await settled();
    expect(filter.proposals).toEqual(['metrics.rmse', 'metrics.r2']);
    filter.move(1);
    filter.move(1);
    expect(filter.active).toBe(1);
    expect(filter.choose(filter.active)).toEqual({ text: 'metrics.r2 ', caret: 11 });
    expect(filter.proposals).toEqual([]);
    filter.type({ text: "state = 'f", caret: 10 });
    await settled();
    expect(filter.proposals).toEqual(["'failed'"]);
    filter.type({ text: 'metrics.r2 < ', caret: 13 });
    await settled();
    expect(filter.proposals).toEqual([]);
  });

  it('remembers the filter of each notebook', async () => {
    const saved = {};
    const { filter, runs } = made(saved);
    filter.scope = scope('a.ipynb');
    await settled();
    filter.type({ text: "state = 'failed'", caret: 16 });
    filter.apply();
    filter.sortBy('-metrics.r2');
    expect(runs.question).toMatchObject({
      path: 'a.ipynb',
      query: "state = 'failed'",
      sort: '-metrics.r2',
      metric: 'r2'
    });
    filter.scope = scope('b.ipynb');
    await settled();
    expect([filter.text, runs.question.sort, runs.question.metric]).toEqual(['', null, null]);
    const again = made(saved);
    again.filter.scope = scope('a.ipynb');
    await settled();
    expect(again.filter.text).toBe("state = 'failed'");
    expect(again.runs.question).toMatchObject({ query: "state = 'failed'", sort: '-metrics.r2' });
    again.filter.clear();
    again.filter.sortBy(null);
    expect(again.runs.question).toMatchObject({ query: '', sort: null, goal: '-metrics.r2' });
  });

  it('does not say what is wrong with a name that may go on', async () => {
    const { filter, runs } = made();
    filter.scope = scope(null);
    await settled();
    filter.type({ text: 'metrics', caret: 7 });
    runs.refused = { query: 'metrics', message: 'a dot', place: 7, isUnfinished: true };
    await settled();
    expect(filter.refused).toBeNull();
    filter.closeProposals();
    expect(filter.refused).toBe(runs.refused);
    filter.type({ text: 'metrics.', caret: 8 });
    expect(filter.refused).toBeNull();
  });
});
