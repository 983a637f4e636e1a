import {
  ago,
  clock,
  counted,
  due,
  duration,
  figure,
  fileVerb,
  plainly,
  shortened,
  size,
  until
} from './format';

const S = 1000;
const M = 60 * S;
const H = 60 * M;
const NOON = new Date(2026, 10, 25, 12, 0, 0).getTime();

describe('times are short', () => {
  it.each([
    [0, '0.0 s'],
    [2600, '2.6 s'],
    [59.94 * S, '59.9 s'],
    [59.96 * S, '1 min'],
    [72 * S, '1 min 12 s'],
    [59 * M + 59.6 * S, '1 h'],
    [2 * H + 5 * M, '2 h 5 min'],
    [50 * H, '2 d 2 h']
  ])('%d ms took %s', (given, said) => {
    expect(duration(given)).toBe(said);
  });

  it.each([
    [8 * S, '0:08'],
    [12 * M + 5 * S, '12:05'],
    [H + 2 * M + 3 * S, '1:02:03'],
    [-5, '0:00']
  ])('%d ms have gone by as %s', (given, said) => {
    expect(clock(given)).toBe(said);
  });

  it.each([
    [10 * S, 'just now'],
    [14 * M, '14 min ago'],
    [3 * H, '3 h ago'],
    [24 * H, 'yesterday'],
    [3 * 24 * H, 'Sunday'],
    [30 * 24 * H, '26 Oct']
  ])('%d ms ago was %s', (gone, said) => {
    expect(ago(NOON - gone, NOON)).toBe(said);
  });

  it.each([
    [-1, 'now'],
    [20 * S, 'in 20 s'],
    [5 * M, 'in 5 min'],
    [14 * H, 'in 14 h'],
    [25 * H, 'tomorrow'],
    [5 * 24 * H, 'Monday']
  ])('in %d ms is %s', (left, said) => {
    expect(until(NOON + left, NOON)).toBe(said);
  });

  it('a due time is shown by the clocks of its own zone', () => {
    expect(due('2026-11-23T06:00:00+01:00')).toBe('Mon 23 Nov 2026 06:00');
  });
});

describe('numbers have their units', () => {
  it.each([
    [412, '412 B'],
    [412e6, '412 MB'],
    [2.1e9, '2.1 GB'],
    [999_600, '1.0 MB']
  ])('%d bytes are %s', (given, said) => {
    expect(size(given)).toBe(said);
  });

  it.each([
    [11.82, '11.82'],
    [12.1, '12.1'],
    [0.000012345, '0.00001234'],
    [336776, '336,776'],
    [NaN, 'NaN'],
    [Infinity, 'Infinity']
  ])('%d is written %s', (given, said) => {
    expect([said, '0.00001235']).toContain(figure(given));
  });

  it('one step is not several', () => {
    expect([counted(1, 'step'), counted(5, 'step')]).toEqual(['1 step', '5 steps']);
  });
});

describe('plainly', () => {
  it('leaves few figures of long numbers, and all else as it is', () => {
    expect(plainly('JFK-FLL, 587.8016072274912')).toBe('JFK-FLL, 587.8');
    expect(plainly('0.0017012542798525892')).toBe('0.001701');
    expect(plainly('-1.2345678e-12, 3.14, 1.2.34567, v1.234567x')).toBe(
      '-1.235e-12, 3.14, 1.2.34567, v1.234567x'
    );
    expect(plainly('Ridge(alpha=np.float64(0.0017012542798525892))', 6)).toBe(
      'Ridge(alpha=0.00170125)'
    );
    expect(plainly("{'a': np.int64(3), 'b': np.str_('x')}")).toBe("{'a': 3, 'b': 'x'}");
  });
});

describe('what is said of values and files', () => {
  it('is cut where there is no room for more', () => {
    expect([shortened('0123456789', 10), shortened('0123456789', 5)]).toEqual([
      '0123456789',
      '0123…'
    ]);
  });

  it('does not say of a file that was not there that it was read', () => {
    expect(
      [
        { mode: 'r', size: 0 },
        { mode: 'r', size: null },
        { mode: 'w', size: null }
      ].map(fileVerb)
    ).toEqual(['read', 'looked for', 'wrote']);
  });
});
