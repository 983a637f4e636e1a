import type { ILineage, ILineageExecution, ILineageValue } from '../api/schema';
import { executionName, LineageRow, rowsAbove, rowsBelow } from './lineage';

const value = (
  name: string,
  execution: string | null,
  how: ILineageValue['how'] = 'name'
): ILineageValue => ({
  name,
  digest: `d-${name}`,
  execution,
  type: null,
  size: 1,
  text: null,
  how
});

const execution = (
  id: string,
  reads: ILineageValue[],
  binds: ILineageValue[],
  more: Partial<ILineageExecution> = {}
): ILineageExecution => ({
  id,
  run: 'run',
  step: id,
  state: 'succeeded',
  item: null,
  label: {},
  part_of: null,
  fanout: null,
  started: 1,
  ended: 2,
  code: null,
  source: null,
  path: null,
  user: null,
  snapshot: null,
  notebook: null,
  commit: null,
  parameters: {},
  files: [],
  reads,
  binds,
  reused_in: [],
  ...more
});

const flights = value('flights', 'load');
const model = value('model', 'train');
const score = value('score', 'evaluate');

/** load -> train -> evaluate, which reads the flights too. */
const WAY: ILineage = {
  values: [model],
  executions: [
    execution('load', [], [flights]),
    execution('train', [flights, value('rate', null, 'captured')], [model]),
    execution('evaluate', [model, flights], [score])
  ],
  above: ['train', 'load'],
  below: ['evaluate'],
  cut: false
};

function lines(rows: ReadonlyArray<LineageRow>): string[] {
  return rows.map(row => {
    const indent = '  '.repeat(row.level);
    switch (row.kind) {
      case 'value':
        return `${indent}${row.value.name}`;
      case 'execution':
        return `${indent}${row.verb} ${executionName(row.execution)}${row.isAgain ? ' again' : ''}`;
      case 'modules':
        return `${indent}modules ${row.names.join(', ')}`;
      case 'unknown':
        return `${indent}unknown ${row.id}`;
    }
  });
}

describe('lineage', () => {
  it('goes up to who made it, what that was given, and who made this', () => {
    expect(lines(rowsAbove(WAY, model))).toEqual([
      'made by train',
      '  flights',
      '    made by load',
      '  rate'
    ]);
  });

  it('names the modules that a step used in one line', () => {
    const module = (name: string) => ({ ...value(name, null, 'captured'), type: 'module' });
    const train = execution('train', [module('np'), flights, module('pd')], [model]);
    expect(lines(rowsAbove({ ...WAY, executions: [train] }, model))).toEqual([
      'made by train',
      '  modules np, pd',
      '  flights',
      '    unknown load'
    ]);
  });

  it('tells a way that joins only once', () => {
    expect(lines(rowsAbove(WAY, score))).toEqual([
      'made by evaluate',
      '  model',
      '    made by train',
      '      flights',
      '        made by load',
      '      rate',
      '  flights',
      '    made by load again'
    ]);
  });

  it('goes down to who read it and what was made of it', () => {
    expect(lines(rowsBelow(WAY, model))).toEqual(['read by evaluate', '  score']);
    const all = { ...WAY, below: ['train', 'evaluate'] };
    expect(lines(rowsBelow(all, flights))).toEqual([
      'read by train',
      '  model',
      '    read by evaluate',
      '      score',
      'read by evaluate again'
    ]);
  });

  it('leads from an item to the list that was made of it', () => {
    const item = value('fit', 'fit-3');
    const list = value('fit', 'fit');
    const way: ILineage = {
      values: [item],
      executions: [
        execution('fit-3', [], [item], { step: 'fit', item: 3, label: { a: 'x' }, part_of: 'fit' }),
        execution('fit', [value('fit', 'fit-3', 'item')], [list, value('other', 'fit')])
      ],
      above: ['fit-3'],
      below: ['fit'],
      cut: false
    };
    expect(lines(rowsBelow(way, item))).toEqual(['collected by fit', '  fit']);
    expect(lines(rowsAbove(way, item))).toEqual(['made by fit[x]']);
  });

  it('says where it was not followed any further', () => {
    expect(lines(rowsAbove({ ...WAY, executions: [] }, model))).toEqual(['unknown train']);
  });
});
