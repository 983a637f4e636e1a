import {
  arrayFacts,
  estimatorOf,
  firstValues,
  frameOf,
  frameWords,
  isCode,
  listFacts,
  percent,
  summary,
  weightsOf
} from './preview';

const FRAME = {
  kind: 'frame',
  shape: [5000, 60],
  columns: [
    { name: 'carrier', type: 'str', missing: 0 },
    { name: 'delay', type: 'float64', missing: 295 }
  ],
  index: ['0', '1'],
  rows: [
    ['C', 'nan'],
    ['B', '3.5']
  ],
  memory: 288000
};

describe('summary', () => {
  it('says in a few words what an artifact is', () => {
    const said: [string, object][] = [
      ['pandas.core.frame.DataFrame', FRAME],
      ['numpy.ndarray', { kind: 'array', shape: [300, 20], type: 'float64' }],
      ['file', { kind: 'file', name: 'loss.png', size: 10 }],
      ['folder', { kind: 'folder', name: 'out', files: 1 }],
      ['list', { kind: 'list', length: 20000 }],
      ['dict', { kind: 'text', text: '{}' }]
    ];
    expect(said.map(([type, preview]) => summary(type, preview as never))).toEqual([
      'DataFrame 5,000 × 60',
      'ndarray 300 × 20 float64',
      'PNG picture',
      'folder, 1 file',
      'list of 20,000',
      'dict'
    ]);
  });
});

describe('a frame', () => {
  it('has its columns with their types and how many values are missing', () => {
    const frame = frameOf(FRAME);
    expect(frame.columns[1]).toEqual({
      name: 'delay',
      type: 'float64',
      missing: 295,
      isNumeric: true
    });
    expect(frame.rows[1]).toEqual(['B', '3.5']);
    expect(frameWords(frame, 2)).toBe('first 2 of 5,000 rows · 58 more columns · 288 kB in memory');
  });

  it('is read as far as it is one', () => {
    expect(frameOf({ kind: 'frame' })).toMatchObject({ columns: [], rows: [], height: null });
    expect(frameWords(frameOf({ kind: 'frame', columns: ['a'], rows: [[1]] }), 5)).toBe('1 row');
    const many = frameOf({
      kind: 'frame',
      columns: ['a'],
      'not counted': 'missing values, since …'
    });
    expect(frameWords(many, 5)).toBe('0 rows · not counted: missing values, since …');
    expect(frameOf({ columns: ['a'], head: [{ a: 1 }] }).rows).toEqual([['1']]);
  });
});

describe('an array', () => {
  it('has a shape, a type, a range, and what else is known', () => {
    const preview = {
      kind: 'array',
      text: 'x',
      shape: [300, 20],
      type: 'float64',
      min: -3.479123,
      max: 'inf',
      missing: 60,
      first: [0.12345, 'nan'],
      device: 'cpu'
    };
    expect(arrayFacts(preview)).toEqual([
      ['shape', '300 × 20'],
      ['type', 'float64'],
      ['range', '-3.479 to inf'],
      ['missing', '60 (1 %)'],
      ['device', 'cpu']
    ]);
    expect(firstValues(preview)).toBe('0.1235, nan, …');
    expect(arrayFacts({ kind: 'array', shape: [], type: 'int64' })[0]).toEqual([
      'shape',
      'one value'
    ]);
    expect(arrayFacts({ shape: [10, 10], filled: 0.0004, stored: 1 })[1]).toEqual([
      'filled',
      '< 0.1 %, 1 value'
    ]);
  });
});

describe('an estimator', () => {
  it('has what it has learned in words, with the weightiest features as bars', () => {
    const { learned, importances, parameters } = estimatorOf({
      kind: 'estimator',
      text: 'RandomForestClassifier()',
      parameters: { max_depth: '3' },
      fitted: ['classes_'],
      learned: {
        classes_: 'array([False, True])',
        n_iter_: 'array([34], dtype=int32)',
        importances: 'delay at noon 0.977, hour 0.006'
      }
    });
    expect(learned).toEqual([
      ['classes', '[False, True]'],
      ['iterations', '[34]']
    ]);
    expect(importances).toEqual([
      { name: 'delay at noon', value: 0.977 },
      { name: 'hour', value: 0.006 }
    ]);
    expect(parameters).toEqual([['max_depth', '3']]);
  });

  it('says that it has learned nothing yet', () => {
    const { learned } = estimatorOf({ kind: 'estimator', fitted: [], learned: {} });
    expect(learned).toEqual([['fitted', 'not yet']]);
    expect(estimatorOf({ kind: 'estimator', parameters: {} }).learned).toEqual([]);
  });

  it('leaves weights that cannot be read as they are', () => {
    expect(weightsOf('a, b 0.3')).toEqual([]);
    expect(weightsOf('')).toEqual([]);
  });
});

describe('a list', () => {
  it('says of what it is and between which values it lies', () => {
    expect(
      listFacts({ length: 3, failed: 1, types: [['numpy.float64', 2]], min: 0.5, max: 2 })
    ).toEqual([
      ['length', '3'],
      ['of', 'float64'],
      ['range', '0.5 to 2'],
      ['without a value', '1']
    ]);
  });
});

describe('code', () => {
  it('is what was imported or defined, and no text that begins so', () => {
    const preview = { kind: 'text', text: 'class LogisticRegression' };
    expect(isCode({ type: 'type', preview })).toBe(true);
    expect(isCode({ type: 'str', preview })).toBe(false);
    expect(isCode({ type: 'dict', preview: { kind: 'text', text: '{}' } })).toBe(false);
  });
});

describe('percent', () => {
  it('never says nothing or all where it is not', () => {
    expect([0, 0.0001, 0.059, 0.9999, 1].map(percent)).toEqual([
      '0 %',
      '< 0.1 %',
      '5.9 %',
      '> 99.9 %',
      '100 %'
    ]);
  });
});
