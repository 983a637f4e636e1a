import { cronOf, IWhen, shown } from './schedule';
import { stepName } from './steps';

const when: IWhen = {
  word: 'Daily',
  time: '06:05',
  weekday: 1,
  day: 15,
  cron: ' */5 * * * * ',
  timezone: 'UTC'
};

describe('a schedule in words', () => {
  it.each([
    ['Hourly', '5 * * * *'],
    ['Daily', '5 6 * * *'],
    ['Weekdays', '5 6 * * 1-5'],
    ['Weekly', '5 6 * * 1'],
    ['Monthly', '5 6 15 * *'],
    ['Cron', '*/5 * * * *']
  ] as const)('%s is %s', (word, cron) => {
    expect(cronOf({ ...when, word })).toBe(cron);
  });

  it('a default is shown as it would be typed', () => {
    expect([shown('JFK'), shown(200), shown(null), shown([1, 2])]).toEqual([
      'JFK',
      '200',
      '',
      '[1,2]'
    ]);
  });
});

describe('the name of a step', () => {
  it.each([
    ['%%step train', 'train'],
    ['\n%%step  train --wait\nx = 1', 'train'],
    ['%%step', ''],
    ['x = 1', null],
    ['# %%step train', null],
    ['%%steps train', null]
  ])('of %j is %j', (source, name) => {
    expect(stepName(source)).toBe(name);
  });
});
