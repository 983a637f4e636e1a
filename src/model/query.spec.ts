import { askedAt, completed, excerpt, fittingValues, isUnfinished, metricOf } from './query';

/** What is asked where the text has a bar. */
function at(marked: string) {
  const caret = marked.indexOf('|');
  return askedAt({ text: marked.replace('|', ''), caret });
}

describe('askedAt', () => {
  it.each([
    ['|', ''],
    ['metr|', 'metr'],
    ['metrics.|', 'metrics.'],
    ['metrics.rm|', 'metrics.rm'],
    ['params.`learning r|', 'params.`learning r'],
    ["state = 'failed' and par|", 'par'],
    ['not sta|', 'sta'],
    ['(sta|', 'sta'],
    ['a = 1 or (|', '']
  ])('a name where one is expected: %s', (marked, prefix) => {
    expect(at(marked)).toMatchObject({ prefix, values: null });
  });

  it.each([
    ['metrics.rmse |'],
    ['metrics.rmse < 1|'],
    ['metrics.rmse < 12 an|'],
    ["params.origin = 'st|"],
    ["params.origin = '|"],
    ["state = 'failed'|"],
    ['state not |'],
    ['params.origin in (|'],
    ["params.origin in ('JFK', |"]
  ])('nothing where neither is known: %s', marked => {
    expect(at(marked)).toBeNull();
  });

  it.each([
    ['state = |', ''],
    ["state = 'fa|", 'fa'],
    ['state != fa|', 'fa'],
    ['state in (|', ''],
    ["state in ('failed', 'ca|", 'ca'],
    ["params.x = 1 and state not in ('fa|", 'fa']
  ])('a value of a column that has few: %s', (marked, prefix) => {
    const asked = at(marked);
    expect(asked?.prefix).toBe(prefix);
    expect(asked?.values).toContain('failed');
  });
});

describe('completed', () => {
  const choose = (marked: string, choice: string) => {
    const text = marked.replace('|', '');
    const asked = askedAt({ text, caret: marked.indexOf('|') });
    const { text: now, caret } = completed(text, asked!, choice);
    return `${now.slice(0, caret)}|${now.slice(caret)}`;
  };

  it('puts a name and a space after it', () => {
    expect(choose('metrics.rm|', 'metrics.rmse')).toBe('metrics.rmse |');
    expect(choose("par| = 'JFK'", 'params.origin')).toBe("params.origin| = 'JFK'");
  });

  it('goes on behind a dot', () => {
    expect(choose('met|', 'metrics.')).toBe('metrics.|');
  });

  it('replaces all of the word that the caret stands in', () => {
    expect(choose('sta|rted < 3', 'state')).toBe('state| < 3');
  });

  it('writes a value with its quotation marks', () => {
    expect(choose("state = 'fa|", "'failed'")).toBe("state = 'failed'|");
    expect(choose("state in ('fa|')", "'failed'")).toBe("state in ('failed'|)");
  });

  it('proposes the values that begin so', () => {
    expect(fittingValues(at("state = 's|")!)).toEqual(["'succeeded'", "'skipped'"]);
  });
});

describe('a place in a query', () => {
  it('at its end is one that is not written yet', () => {
    expect(isUnfinished('metrics.rmse < ', 14)).toBe(true);
    expect(isUnfinished('metric.rmse < 12', 0)).toBe(false);
  });

  it('is shown with what stands around it', () => {
    expect(excerpt('metric.rmse < 12', 0, 30)).toEqual({
      before: '',
      at: 'm',
      after: 'etric.rmse < 12'
    });
    expect(excerpt('metrics.rmse <', 14, 30)).toEqual({
      before: 'metrics.rmse <',
      at: '',
      after: ''
    });
    const long = `${'a'.repeat(50)}!${'b'.repeat(50)}`;
    const { before, at, after } = excerpt(long, 50, 20);
    expect([before, at, after]).toEqual([`…${'a'.repeat(10)}`, '!', `${'b'.repeat(9)}…`]);
  });
});

describe('metricOf', () => {
  it('reads the name as the records have it', () => {
    expect(metricOf('-metrics.rmse')).toBe('rmse');
    expect(metricOf('metrics.`val loss`')).toBe('val loss');
    expect(metricOf('metrics."a`\\"b"')).toBe('a`"b');
    expect(metricOf('started')).toBeNull();
    expect(metricOf(null)).toBeNull();
  });
});
