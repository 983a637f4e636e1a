/**
 * Times and sizes as people read them: short here, exact on hover.
 */

import type { IFileUse } from '../api/schema';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Milliseconds of UTC nanoseconds. */
export function millis(nanoseconds: number): number {
  return nanoseconds / 1e6;
}

/** How long something took: `2.6 s`, `1 min 12 s`, `2 h 5 min`. */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, milliseconds) / SECOND;
  if (seconds < 59.95) {
    return `${seconds.toFixed(1)} s`;
  }
  const whole = Math.round(seconds);
  if (whole < 3600) {
    return whole % 60 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${whole / 60} min`;
  }
  const minutes = Math.round(whole / 60);
  if (minutes < 24 * 60) {
    return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
  }
  const hours = Math.round(minutes / 60);
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}

/** How long something has been going on: `0:08`, `12:05`, `1:02:03`. */
export function clock(milliseconds: number): string {
  const whole = Math.floor(Math.max(0, milliseconds) / SECOND);
  const two = (value: number) => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = `${two(whole % 60)}`;
  return hours ? `${hours}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
}

/** When something was: `just now`, `14 min ago`, `yesterday`, `Thursday`, `20 Nov`. */
export function ago(time: number, now: number): string {
  const gone = now - time;
  if (gone < MINUTE) {
    return 'just now';
  }
  if (gone < HOUR) {
    return `${Math.floor(gone / MINUTE)} min ago`;
  }
  const days = daysBetween(time, now);
  if (days === 0 || gone < 6 * HOUR) {
    return `${Math.floor(gone / HOUR)} h ago`;
  }
  if (days === 1) {
    return 'yesterday';
  }
  return days < 7 ? weekday(time) : day(time, now);
}

/** When something will be: `in 5 min`, `in 14 h`, `tomorrow`, `Monday`, `20 Nov`. */
export function until(time: number, now: number): string {
  const left = time - now;
  if (left <= 0) {
    return 'now';
  }
  if (left < MINUTE) {
    return `in ${Math.ceil(left / SECOND)} s`;
  }
  if (left < HOUR) {
    return `in ${Math.round(left / MINUTE)} min`;
  }
  if (left < DAY) {
    return `in ${Math.round(left / HOUR)} h`;
  }
  const days = daysBetween(now, time);
  if (days === 1) {
    return 'tomorrow';
  }
  return days < 7 ? weekday(time) : day(time, now);
}

/** A point in time, exactly, for hovering. */
export function exact(time: number): string {
  return new Date(time).toLocaleString(undefined, { dateStyle: 'full', timeStyle: 'medium' });
}

/** A point in time as a head shows it: `Fri 20 Nov, 06:00:00`. */
export function moment(time: number): string {
  const date = new Date(time);
  const part = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat('en-GB', options).format(date);
  const clockTime = part({ hour: '2-digit', minute: '2-digit', second: '2-digit' });
  return `${part({ weekday: 'short' })} ${part({ day: 'numeric', month: 'short' })}, ${clockTime}`;
}

/**
 * A due time as the clocks of its own zone show it: `Mon 23 Nov 2026 06:00`.
 *
 * @param iso - the time with the zone's offset, whose digits are shown as they are.
 */
export function due(iso: string): string {
  const date = new Date(`${iso.slice(0, 19)}Z`);
  const part = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat('en-GB', { ...options, timeZone: 'UTC' }).format(date);
  const days = part({ day: '2-digit', month: 'short', year: 'numeric' });
  return `${part({ weekday: 'short' })} ${days} ${iso.slice(11, 16)}`;
}

/** Bytes in the unit that fits: `412 MB`, `2.1 GB`. */
export function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A metric: four figures, no more zeros than it has. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) {
    return String(value);
  }
  if (Number.isInteger(value) && Math.abs(value) < 1e15) {
    return value.toLocaleString('en-US');
  }
  const text = value.toPrecision(4);
  return text.includes('e') ? text : text.replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '');
}

/**
 * A text in which numbers with more figures than anybody reads have few: `JFK, 587.8016072274912` is `JFK, 587.8`.
 * What NumPy writes around its numbers is left out.
 *
 * @param figures - how many figures such a number is to have.
 */
export function plainly(text: string, figures = 4): string {
  return text
    .replace(/\bnp\.(?:float|int|uint|bool|str)[\w]*_?\(([^()]*)\)/g, '$1')
    .replace(/(?<![\w.])-?\d+\.\d{5,}(?:e[-+]?\d+)?(?![\w.])/gi, found =>
      String(Number(Number(found).toPrecision(figures)))
    );
}

/** A text as far as there is room for it. */
export function shortened(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** What was done with a file: one that was asked for and not there has no size. */
export function fileVerb({ mode, size: bytes }: Pick<IFileUse, 'mode' | 'size'>): string {
  return mode === 'w' ? 'wrote' : bytes === null ? 'looked for' : 'read';
}

/** One thing and its number: `1 step`, `5 steps`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString('en-US')} ${count === 1 ? one : many}`;
}

function daysBetween(early: number, late: number): number {
  const start = (time: number) => new Date(time).setHours(0, 0, 0, 0);
  return Math.round((start(late) - start(early)) / DAY);
}

function weekday(time: number): string {
  return new Intl.DateTimeFormat('en-GB', { weekday: 'long' }).format(time);
}

function day(time: number, now: number): string {
  const sameYear = new Date(time).getFullYear() === new Date(now).getFullYear();
  return new Intl.DateTimeFormat('en-GB', {
    day: 'numeric',
    month: 'short',
    year: sameYear ? undefined : 'numeric'
  }).format(time);
}
