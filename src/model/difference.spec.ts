import type { IDifference, IRunDetail } from '../api/schema';
import {
  alike,
  boundIn,
  exactly,
  isEmpty,
  itemWords,
  loggedIn,
  pair,
  parameterSides,
  sideBySide,
  telling
} from './difference';

const NOTHING: IDifference = {
  before: 'a',
  after: 'b',
  code: [],
  parameters: [],
  data: [],
  artifacts: [],
  environment: [],
  metrics: [],
  outcome: [],
  items: []
};

const cell = (name: string, change: 'added' | 'changed' | 'moved', type = 'code') => ({
  what: 'cell' as const,
  change,
  name,
  cell: null,
  type,
  diff: []
});

const data = (step: string, name: string, ...details: string[]) => ({
  step,
  name,
  change: 'changed' as const,
  before: 'x',
  after: 'y',
  before_execution: 'e',
  after_execution: 'f',
  details
});

describe('telling', () => {
  it('names causes in the order in which they matter, and how many are left', () => {
    const difference: IDifference = {
      ...NOTHING,
      code: [
        cell('notes', 'changed', 'markdown'),
        cell('clean', 'moved'),
        cell('train', 'changed')
      ],
      parameters: [{ name: 'trees', change: 'changed', before: 100, after: 200 }],
      data: [data('load', 'flights', 'rows 10 to 12')],
      environment: [{ part: 'package numpy', change: 'changed', before: '2.0', after: '2.1' }],
      metrics: [{ name: 'rmse', change: 'changed', step: null, before: 1, after: 2, difference: 1 }]
    };
    expect(telling(difference, null, [], 4)).toEqual([
      'code of train',
      'trees 100 → 200',
      'flights of load (rows 10 to 12)',
      'numpy 2.0 → 2.1'
    ]);
    expect(telling(difference, null, [], 2)).toEqual([
      'code of train',
      'trees 100 → 200',
      '2 more'
    ]);
  });

  it('tells parameters exactly, and one of None from one that was not there', () => {
    const change = (before: number | null, after: number | null) => ({
      ...NOTHING,
      parameters: [{ name: 'rate', change: 'changed' as const, before, after }]
    });
    expect(telling(change(0.00012341, 0.00012342))).toEqual(['rate 0.00012341 → 0.00012342']);
    expect(telling(change(null, 12000))).toEqual(['rate null → 12000']);
    const added = { name: 'rate', change: 'added' as const, before: null, after: null };
    expect(telling({ ...NOTHING, parameters: [added] })).toEqual(['rate null, not there before']);
  });

  it('names cells with other code in one go, that of the failed step first', () => {
    const code = ['load', 'clean', 'train', 'score', 'report'].map(each => cell(each, 'changed'));
    expect(telling({ ...NOTHING, code: code.slice(0, 2) })).toEqual(['code of load and clean']);
    expect(telling({ ...NOTHING, code: [...code, cell('new', 'added')] }, 'train')).toEqual([
      'code of train, load, clean and 2 more',
      'new added'
    ]);
  });

  it('does not tell the data of a step whose code has changed', () => {
    const difference: IDifference = {
      ...NOTHING,
      code: [cell('train', 'changed')],
      data: [data('train', 'model', 'the content: what is shown of it is the same')]
    };
    expect(telling(difference)).toEqual(['code of train']);
  });

  it('does not tell data that follow from something above them', () => {
    const edges = [
      { parent: 'load', child: 'features' },
      { parent: 'features', child: 'sweep' }
    ];
    const sweep = data('sweep', 'fit', 'min 1 to 2');
    const edited = { ...NOTHING, code: [cell('load', 'changed')], data: [sweep] };
    expect(telling(edited, null, edges)).toEqual(['code of load']);
    const grown = { ...NOTHING, data: [data('load', 'flights', 'rows 10 to 12'), sweep] };
    expect(telling(grown, null, edges)).toEqual(['flights of load (rows 10 to 12)']);
  });

  it('tells nothing where only results differ', () => {
    expect(
      telling({ ...NOTHING, outcome: [{ step: null, before: 'succeeded', after: 'failed' }] })
    ).toEqual([]);
  });
});

describe('sideBySide', () => {
  it('puts what was removed beside what was added', () => {
    const same = (text: string) => ({ text, isChanged: false });
    const changed = (text: string) => ({ text, isChanged: true });
    expect(sideBySide(['@@ -1,3 +4,4 @@', ' a', '-b', '+c', '+d', ' e'])).toEqual([
      { head: 'line 4' },
      { before: same('a'), after: same('a') },
      { before: changed('b'), after: changed('c') },
      { before: undefined, after: changed('d') },
      { before: same('e'), after: same('e') }
    ]);
  });
});

describe('words', () => {
  it('say what is new and what is gone', () => {
    expect(pair(null, 3)).toBe('3, not there before');
    expect(pair('x', null)).toBe('x before, now gone');
    expect(pair(0.123456, true)).toBe('0.1235 → true');
  });

  it('say a parameter as it is', () => {
    expect([12345.678, 'JFK', '1', '', [0.1]].map(exactly)).toEqual([
      '12345.678',
      'JFK',
      '"1"',
      '""',
      '[0.1]'
    ]);
    const gone = { name: 'x', change: 'removed' as const, before: 'a', after: null };
    expect(parameterSides(gone)).toEqual(['a', null]);
  });

  it('say of an item all that differs', () => {
    expect(
      itemWords({
        label: { a: '1' },
        before: 'succeeded',
        after: 'failed: ValueError',
        data: [data('fit', 'model', 'depth 3.0000000000000004 to 4', 'leaves 8 to 9', 'more')],
        artifacts: [
          {
            ...data('fit', 'plot.png', 'plot.png, 12 kB'),
            change: 'added',
            before_size: null,
            after_size: 12_000
          }
        ],
        metrics: [
          { name: 'rmse', change: 'changed', step: null, before: 1, after: 2, difference: 1 }
        ]
      })
    ).toBe(
      'succeeded → failed: ValueError · model differs: depth 3 to 4, leaves 8 to 9' +
        ' · plot.png was added: plot.png, 12 kB · rmse 1 → 2'
    );
  });

  it('name the parts that are alike', () => {
    expect(alike(NOTHING)).toHaveLength(8);
    expect(isEmpty(NOTHING)).toBe(true);
    expect(alike({ ...NOTHING, code: [cell('x', 'added')] })).not.toContain('cells and modules');
  });
});

describe('loggedIn', () => {
  it('names what a plain cell logged by its run, and what a step logged by its execution', () => {
    const detail = { run: { id: 'r' } } as Pick<IRunDetail, 'run'>;
    expect(loggedIn(detail, 'd', null, 'a.txt')).toEqual({ digest: 'd', run: 'r', name: 'a.txt' });
    expect(loggedIn(detail, 'd', 'e', 'a.txt')).toEqual({
      digest: 'd',
      execution: 'e',
      name: 'a.txt'
    });
  });
});

describe('boundIn', () => {
  const bound = (id: string, step: string, digest: string) => ({
    id,
    step,
    binds: [{ name: 'model', artifact: { digest } }]
  });
  const detail = {
    executions: [bound('one', 'load', 'x'), bound('two', 'train', 'x'), bound('three', 'late', 'y')]
  } as unknown as IRunDetail;

  it('names the execution of this run, not whoever made an equal value first', () => {
    expect(boundIn(detail, 'x', 'train', 'model')).toEqual({
      digest: 'x',
      execution: 'two',
      name: 'model'
    });
  });

  it('names the artifact alone where its maker is not known', () => {
    expect(boundIn(detail, 'z', 'train', 'model')).toEqual({ digest: 'z' });
    expect(boundIn(detail, 'x', 'train', 'other')).toEqual({ digest: 'x' });
  });
});
