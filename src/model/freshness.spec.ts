import type { IExecution, IGraph } from '../api/schema';
import { cellsToRun, outOfDate, RanCells } from './freshness';

/** `a; b<a; c<b (uses)`: steps in order, with their parents and the plain cells that feed them. */
function graph(text: string, edited: string[] = []): IGraph {
  const steps = text.split(';').map(line => {
    const [, name, parents, cells] = /^\s*(\w+)(?:<([\w,]+))?(?:\s*\(([\w,]+)\))?\s*$/.exec(
      line
    ) ?? ['', '', '', ''];
    return {
      name,
      cell: `cell-${name}`,
      parents: (parents ?? '')
        .split(',')
        .filter(Boolean)
        .map(step => ({ step, why: 'reads it' })),
      problems: [],
      cells: (cells ?? '').split(',').filter(Boolean)
    };
  });
  return { steps, problems: [], edited };
}

type State = IExecution['state'];

function executions(
  given: Record<string, Partial<IExecution> | State>
): (cell: string) => IExecution | undefined {
  return cell => {
    const found = given[cell.replace('cell-', '')];
    if (!found) {
      return undefined;
    }
    const more = typeof found === 'string' ? { state: found } : found;
    const empty = { id: cell, state: 'succeeded', reads: [], binds: [], reused_from: null };
    return { ...empty, ...more } as unknown as IExecution;
  };
}

function bound(digest: string): Partial<IExecution> {
  const artifact = { digest, size: 1, type: 'int', codec: 'scalar', preview: {}, signature: null };
  return {
    id: `made-${digest}`,
    binds: [{ name: 'x', artifact, member: null, module: null, submodules: [], problem: null }]
  };
}

function reads(digest: string): Partial<IExecution> {
  return {
    reads: [
      { name: 'x', digest, type: null, size: null, execution: `made-${digest}` as never, step: 'a' }
    ]
  };
}

const CHAIN = 'a; b<a; c<b; d';
const ALL = { a: 'succeeded', b: 'succeeded', c: 'reused', d: 'succeeded' } as const;

describe('out of date', () => {
  it('is nothing that ran as it stands', () => {
    expect(outOfDate(graph(CHAIN), executions(ALL), new RanCells()).size).toBe(0);
  });

  it('is a step whose cell was edited, and what waits for it, but nothing beside it', () => {
    const found = outOfDate(graph(CHAIN, ['cell-b']), executions(ALL), new RanCells());
    expect([...found]).toEqual([
      ['cell-b', 'its code has changed since'],
      ['cell-c', 'b is out of date']
    ]);
  });

  it('is a step that read something else than its parent has made by now', () => {
    const one = { a: bound('new'), b: reads('old') };
    expect(outOfDate(graph('a; b<a'), executions(one), new RanCells()).get('cell-b')).toBe(
      'x of a has changed since'
    );
    const same = { a: { ...bound('old'), id: 'again' }, b: reads('old') };
    expect(outOfDate(graph('a; b<a'), executions(same), new RanCells()).size).toBe(0);
  });

  it('is a step whose parent failed since, and not one that has not run or runs', () => {
    const found = outOfDate(
      graph('a; b<a; c; d<c'),
      executions({ a: 'failed', b: 'succeeded', c: 'succeeded', d: 'running' }),
      new RanCells()
    );
    expect([...found]).toEqual([['cell-b', 'a failed']]);
  });

  it('is a step whose feeding cell was edited, or run otherwise since', () => {
    const ran = new RanCells();
    ran.note('p', 'rate = 1', false);
    ran.note('cell-a', '%%step a', true);
    const steps = graph('a (p)');
    expect(outOfDate(steps, executions({ a: 'succeeded' }), ran).size).toBe(0);
    const edited = { ...steps, edited: ['p'] };
    expect(outOfDate(edited, executions({ a: 'succeeded' }), ran).size).toBe(1);
    ran.note('p', 'rate = 2', false);
    expect(outOfDate(steps, executions({ a: 'succeeded' }), ran).size).toBe(1);
    ran.note('cell-a', '%%step a', true);
    expect(outOfDate(steps, executions({ a: 'succeeded' }), ran).size).toBe(0);
  });
});

describe('run what changed', () => {
  const cells = ['p', 'cell-a', 'cell-b', 'q', 'cell-c', 'cell-d', 'z'].map(id => ({
    id,
    source: id.startsWith('cell-') ? `%%step ${id.slice(5)}` : `${id} = 1`
  }));

  it('runs nothing where nothing changed', () => {
    expect(cellsToRun(cells, graph(CHAIN), executions(ALL), new RanCells())).toEqual([]);
  });

  it('runs the edited step and what waits for it, in order, and no plain cell that ran', () => {
    const edited = graph(CHAIN, ['cell-b']);
    expect(cellsToRun(cells, edited, executions(ALL), new RanCells())).toEqual([
      'cell-b',
      'cell-c'
    ]);
  });

  it('runs what failed, was skipped or has not run, but not what runs', () => {
    const now = executions({ a: 'running', b: 'failed', c: 'skipped' });
    expect(cellsToRun(cells, graph(CHAIN), now, new RanCells())).toEqual([
      'cell-b',
      'cell-c',
      'cell-d'
    ]);
  });

  it('runs all above and with it in a kernel that has run nothing', () => {
    const ran = new RanCells();
    ran.forget(true);
    expect(cellsToRun(cells, graph(CHAIN), executions(ALL), ran)).toEqual([
      'p',
      'cell-a',
      'cell-b',
      'q',
      'cell-c',
      'cell-d'
    ]);
  });

  it('runs an edited plain cell again before the step that it feeds', () => {
    const edited = graph('a; b<a (p); c<b; d', ['p']);
    expect(cellsToRun(cells, edited, executions(ALL), new RanCells())).toEqual([
      'p',
      'cell-b',
      'cell-c'
    ]);
  });
});
