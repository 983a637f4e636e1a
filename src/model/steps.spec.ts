import { Signal } from '@lumino/signaling';

import { Client } from '../api/client';
import { NewsFeed } from '../api/news';
import type { ICellText, IExecution, IGraph, INews } from '../api/schema';
import { StepsModel } from './steps';

const SETUP = { id: 'setup', source: 'rate = 2' };
const SCALE = { id: 'scale', source: '%%step scale\nscaled = rate' };
const TOTAL = { id: 'total', source: '%%step total\nwhole = 1' };

type IRanCell = ICellText & { readonly ran?: string | null };

/** A server for which `scale` takes a name of `setup`, and a cell is edited if it differs from what was run. */
class Server {
  async graph(cells: ReadonlyArray<IRanCell>): Promise<IGraph> {
    const steps = [
      { name: 'scale', cell: 'scale', parents: [], cells: ['setup'] },
      { name: 'total', cell: 'total', parents: [], cells: [] }
    ];
    const edited = cells.filter(each => (each.ran ?? each.source) !== each.source);
    return { steps, problems: [], edited: edited.map(each => each.id) } as unknown as IGraph;
  }

  async dashboards(): Promise<[]> {
    return [];
  }
}

class Feed {
  readonly arrived = new Signal<this, INews>(this);

  tell(cell: string, state: IExecution['state'], progress?: object): void {
    const execution = {
      id: `e-${cell}`,
      cell,
      step: cell,
      state,
      queued: 1,
      source: null,
      reads: []
    };
    this.arrived.emit({
      type: 'execution',
      kernel: 'k',
      body: { execution, progress }
    } as unknown as INews);
  }
}

function aNotebook(): { feed: Feed; steps: StepsModel } {
  const feed = new Feed();
  const steps = new StepsModel(new Server() as unknown as Client, feed as unknown as NewsFeed);
  steps.setKernel('k');
  steps.setCells([SETUP, SCALE, TOTAL] as unknown as ICellText[]);
  return { feed, steps };
}

function run(steps: StepsModel, ...cells: { id: string; source: string }[]): void {
  cells.forEach(cell => steps.noteRun(cell.id, cell.source));
}

async function edit(steps: StepsModel, ...cells: { id: string; source: string }[]): Promise<void> {
  steps.setCells(cells as unknown as ICellText[]);
  await jest.advanceTimersByTimeAsync(1000);
}

describe('the steps of a notebook', () => {
  beforeEach(() => jest.useFakeTimers());
  afterEach(() => jest.useRealTimers());

  it('are told from cells that were run before the kernel had answered the greeting', async () => {
    const { feed, steps } = aNotebook();
    run(steps, SETUP, SCALE);
    steps.noteFresh();
    feed.tell('scale', 'succeeded');
    await edit(steps, { ...SETUP, source: 'rate = 10' }, SCALE, TOTAL);
    expect(steps.staleness('scale')).toBe('a cell whose names it takes has changed since');
    expect(steps.toRun).toEqual(['setup', 'scale', 'total']);
  });

  it('are those of a fresh kernel though one is under way before it has answered', async () => {
    const { feed, steps } = aNotebook();
    run(steps, TOTAL);
    feed.tell('total', 'succeeded');
    steps.noteFresh();
    await edit(steps, SETUP, SCALE, TOTAL);
    expect(steps.toRun).toEqual(['setup', 'scale']);
  });

  it('may be those of a kernel before it, which has left nothing to the one that answers', async () => {
    const { feed, steps } = aNotebook();
    feed.tell('total', 'succeeded');
    steps.noteFresh();
    await edit(steps, SETUP, SCALE, TOTAL);
    expect(steps.toRun).toEqual(['scale']);
  });
});

describe('what a step says of itself', () => {
  it('is how far it is, while it runs', () => {
    const { feed, steps } = aNotebook();
    feed.tell('scale', 'running', { done: 12, total: 60 });
    expect(steps.howFar('scale')).toBe('12 of 60');
    feed.tell('scale', 'running', { done: 0.5, total: null });
    expect(steps.howFar('scale')).toBe('0.5 done');
    feed.tell('scale', 'succeeded');
    expect(steps.howFar('scale')).toBe('');
  });

  it('is told at its end though the notebook has another kernel by now', () => {
    const { feed, steps } = aNotebook();
    const ended: string[] = [];
    feed.tell('scale', 'running');
    steps.executionChanged.connect((_, { cell, state }) => ended.push(`${cell} ${state}`));
    steps.setKernel('another');
    feed.tell('scale', 'succeeded');
    expect(ended).toEqual(['scale succeeded']);
  });
});
