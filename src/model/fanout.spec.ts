import {
  cellsOf,
  fanoutWords,
  heatOf,
  IPicture,
  itemsOf,
  itemToOpen,
  labelOf,
  layOutGrid,
  leftWords,
  numbers,
  positionOf,
  rampColour,
  rangeOf,
  rateWords,
  readPicture,
  secondsWords,
  shares,
  squareWords
} from './fanout';

const GIVEN = {
  schema: 1,
  execution: 'a'.repeat(26),
  step: 'train',
  names: ['carrier', 'alpha'],
  shape: [2, 3],
  total: 6,
  counts: { running: 1, succeeded: 3, reused: 0, failed: 1, cancelled: 0 },
  rate: 0.5,
  left: 4.2,
  slowest: { item: 4, label: 'UA, 0.1', seconds: 0.412 },
  metric: 'rmse',
  grid: [2, 3],
  per_cell: 1,
  states: 'sssfrq',
  values: [1, 2, 3, null, null, null],
  labels: [
    ['AA', 'UA'],
    ['0.01', '0.1', '1']
  ],
  failed: [[3, 'UA, 0.01', 'ValueError: no rows']]
};

function picture(changes: object = {}): IPicture {
  const read = readPicture({ ...GIVEN, ...changes });
  if (!read) {
    throw new Error('not read');
  }
  return read;
}

/** A product whose cells stand for several items each. */
function large(): IPicture {
  return picture({
    shape: [200, 100],
    total: 20000,
    grid: [200, 20],
    per_cell: 5,
    states: 's'.repeat(4000),
    values: Array.from({ length: 4000 }, (_, at) => at),
    labels: [[], []],
    failed: [[508, 'x, y', 'ValueError: no']]
  });
}

describe('reading a picture', () => {
  it.each([null, 'text', [], {}, { ...GIVEN, schema: 2 }, { ...GIVEN, execution: 3 }])(
    'takes nothing for one that is none: %#',
    given => {
      expect(readPicture(given)).toBeNull();
    }
  );

  it('leaves out a map that does not fit its items, and numbers that are none', () => {
    const read = picture({
      grid: [1e9, 1e9],
      left: 'soon',
      counts: null,
      values: 'x',
      failed: [3]
    });
    expect(read.states).toBe('');
    expect(layOutGrid(read, 400)).toBeNull();
    expect(read.left).toBeNull();
    expect(read.counts.succeeded).toBe(0);
  });
});

describe('the line of numbers', () => {
  it('tells what is done, what failed, how fast it is and how long it takes', () => {
    expect(numbers(picture())).toEqual({
      done: '4 of 6',
      share: '66 %',
      failed: '1 failed',
      rest: ['1 running', '30 a minute', 'about 4 s left']
    });
  });

  it('says that items are counted while there is no number', () => {
    expect(numbers(picture({ total: null })).done).toBe('Counting the items …');
  });

  it('leaves out what is over', () => {
    const counts = { running: 0, succeeded: 4, reused: 2, failed: 0, cancelled: 0 };
    expect(numbers(picture({ counts, rate: null, left: null }))).toEqual({
      done: '6 of 6',
      share: null,
      failed: null,
      rest: ['2 reused']
    });
  });

  it.each([
    [9310.4, '9,310 a second'],
    [4.26, '4.3 a second'],
    [0.5, '30 a minute'],
    [0.002, '7.2 an hour']
  ])('says a rate of %d', (rate, words) => {
    expect(rateWords(rate)).toBe(words);
  });

  it.each([
    [0.2, 'about 1 s left'],
    [80, 'about 80 s left'],
    [720, 'about 12 min left'],
    [9000, 'about 3 h left']
  ])('says that %d seconds are left', (seconds, words) => {
    expect(leftWords(seconds)).toBe(words);
  });

  it.each([
    [0.00042, '0.42 ms'],
    [0.412, '412 ms'],
    [2.61, '2.6 s'],
    [72, '1 min 12 s'],
    [120, '2 min']
  ])('says %d seconds', (seconds, words) => {
    expect(secondsWords(seconds)).toBe(words);
  });

  it('is short on the line of a step', () => {
    const counts = { succeeded: 11, reused: 0, failed: 0, cancelled: 0, total: 16 };
    expect(fanoutWords(counts, true)).toBe('×16 · 11 done');
    expect(fanoutWords({ ...counts, succeeded: 16 }, false)).toBe('×16');
    expect(fanoutWords({ ...counts, failed: 5 }, false)).toBe('×16 · 11 done · 5 failed');
    expect(fanoutWords({ ...counts, total: null }, true)).toBe('');
  });
});

describe('the bar', () => {
  it('is shared by the states, and by what has not begun', () => {
    expect(shares(picture().counts, 6)).toEqual([
      { state: 'succeeded', share: 0.5 },
      { state: 'failed', share: 1 / 6 },
      { state: 'running', share: 1 / 6 },
      { state: 'left', share: 1 / 6 }
    ]);
    expect(shares({ running: 0, succeeded: 0, reused: 0, failed: 0, cancelled: 0 }, 0)).toEqual([]);
  });
});

describe('the heat map', () => {
  it('has the first name down and the second across', () => {
    const grid = layOutGrid(picture(), 400);
    expect(grid).toMatchObject({ rows: 2, columns: 3, width: 14, height: 14 });
    expect(grid?.down.name).toBe('carrier');
    expect(grid && cellsOf(grid, 1, 2, 6)).toEqual([5]);
  });

  it.each([240, 900])('has the longer name across, and each cell once, in %d pixels', width => {
    const read = large();
    const grid = layOutGrid(read, width);
    if (!grid) {
      throw new Error('no grid');
    }
    expect(grid.across.name).toBe('carrier');
    expect(grid.columns * grid.width).toBeLessThanOrEqual(width);
    const seen = new Set<number>();
    for (let row = 0; row < grid.rows; row++) {
      for (let column = 0; column < grid.columns; column++) {
        cellsOf(grid, row, column, 4000).forEach(cell => seen.add(cell));
      }
    }
    expect(seen.size).toBe(4000);
  });

  it('wraps one name into rows where it is long, and leaves no cell out', () => {
    const read = picture({
      names: ['seed'],
      shape: [100000],
      total: 100000,
      grid: [1, 4000],
      per_cell: 25,
      states: 'q'.repeat(4000),
      values: []
    });
    const grid = layOutGrid(read, 240);
    if (!grid) {
      throw new Error('no grid');
    }
    expect(grid.rows * grid.height).toBeLessThanOrEqual(120);
    const last = cellsOf(grid, grid.rows - 1, 0, 4000);
    expect(last.length).toBeGreaterThan(0);
    const covered = Array.from({ length: grid.rows }, (_, row) =>
      Array.from({ length: grid.columns }, (_, column) => cellsOf(grid, row, column, 4000))
    ).flat(2);
    expect(covered).toEqual(Array.from({ length: 4000 }, (_, at) => at));
  });

  it('knows which items a cell stands for', () => {
    expect(itemsOf(picture(), 4)).toEqual([4, 5]);
    expect(itemsOf(large(), 21)).toEqual([105, 110]);
    const wide = picture({ shape: [2, 7], total: 14, grid: [2, 2], per_cell: 4, states: 'ssss' });
    expect(itemsOf(wide, 1)).toEqual([4, 7]);
    expect(itemsOf(wide, 2)).toEqual([7, 11]);
    const merged = picture({
      shape: [9, 2],
      total: 18,
      grid: [5, 1],
      per_cell: 4,
      states: 'sssss'
    });
    expect(itemsOf(merged, 4)).toEqual([16, 18]);
  });

  it('shows of several cells the state that most wants to be seen, and the mean of their values', () => {
    expect(heatOf(picture(), [0, 1])).toEqual({ state: 's', value: 1.5 });
    expect(heatOf(picture(), [2, 3, 4])).toEqual({ state: 'f', value: 3 });
    expect(heatOf(picture(), [4, 5])).toEqual({ state: 'r', value: null });
  });

  it('names what is pointed at', () => {
    expect(squareWords(picture(), [1])).toBe('AA, 0.1 · rmse 2');
    expect(squareWords(picture(), [3])).toBe('UA, 0.01 · failed: ValueError: no rows');
    expect(squareWords(picture(), [5])).toBe('UA, 1 · not begun');
    expect(squareWords(large(), [21, 22])).toBe(
      '10 items, item 105 to item 114 · rmse 21.5 on average'
    );
    expect(squareWords(picture(), [])).toBe('');
    expect(labelOf(picture({ labels: [[], []] }), 2)).toBe('item 2');
  });

  it('opens the item that failed, else the first', () => {
    expect(itemToOpen(picture(), [4])).toBe(4);
    expect(itemToOpen(large(), [101])).toBe(508);
    expect(itemToOpen(large(), [2])).toBe(10);
    expect(itemToOpen(picture(), [])).toBeNull();
  });

  it('spans its colours over the values, but not for the sake of a few far ones', () => {
    expect(rangeOf([null, 3, 1, 2])).toEqual({ low: 1, high: 3, isCut: false });
    expect(rangeOf([null])).toBeNull();
    const many = Array.from({ length: 200 }, (_, at) => at);
    expect(rangeOf([...many, 1e9])).toMatchObject({ low: 2, high: 198, isCut: true });
    expect(positionOf(5, { low: 0, high: 10, isCut: false })).toBe(0.5);
    expect(positionOf(50, { low: 0, high: 10, isCut: true })).toBe(1);
    expect(positionOf(7, { low: 7, high: 7, isCut: false })).toBe(0.5);
  });

  it('goes from near the ground to the strong colour, on a light and on a dark ground', () => {
    expect(rampColour([255, 255, 255], [25, 118, 210], 1)).toEqual([25, 118, 210]);
    expect(rampColour([17, 17, 17], [33, 150, 243], 1)).toEqual([33, 150, 243]);
    const weak = rampColour([255, 255, 255], [25, 118, 210], 0);
    expect(weak[0]).toBeLessThan(235);
    expect(weak[0]).toBeGreaterThan(200);
  });
});
