/**
 * The schedule dialog: words become a cron line, and the server says what it means and what was checked.
 */

import { PartialJSONObject, PartialJSONValue } from '@lumino/coreutils';
import { IDisposable } from '@lumino/disposable';
import { Debouncer } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, sentence } from '../api/client';
import type { IFormField, IJobCheck, IJobView, ISchedulePreview } from '../api/schema';

export const WORDS = ['Hourly', 'Daily', 'Weekdays', 'Weekly', 'Monthly', 'Cron'] as const;
export type Word = (typeof WORDS)[number];

export const WEEKDAYS = [
  'Sunday',
  'Monday',
  'Tuesday',
  'Wednesday',
  'Thursday',
  'Friday',
  'Saturday'
] as const;

/** When a job runs, as the dialog holds it. */
export interface IWhen {
  readonly word: Word;
  /** `HH:MM`; of Hourly only the minute counts. */
  readonly time: string;
  readonly weekday: number;
  readonly day: number;
  readonly cron: string;
  readonly timezone: string;
}

/** The cron line of what was chosen in words. */
export function cronOf(when: IWhen): string {
  const [hour, minute] = when.time.split(':').map(part => Number.parseInt(part, 10) || 0);
  switch (when.word) {
    case 'Hourly':
      return `${minute} * * * *`;
    case 'Daily':
      return `${minute} ${hour} * * *`;
    case 'Weekdays':
      return `${minute} ${hour} * * 1-5`;
    case 'Weekly':
      return `${minute} ${hour} * * ${when.weekday}`;
    case 'Monthly':
      return `${minute} ${hour} ${when.day} * *`;
    case 'Cron':
      return when.cron.trim();
  }
}

/** The browser's zone, and all that it knows. */
export function timezones(): { readonly own: string; readonly all: ReadonlyArray<string> } {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
  const listed = (Intl as { supportedValuesOf?: (key: 'timeZone') => string[] }).supportedValuesOf;
  const all = new Set([own, 'UTC', ...(listed ? listed('timeZone') : [])]);
  return { own, all: [...all].sort() };
}

/** A parameter's default as the form shows it. */
export function shown(value: PartialJSONValue | undefined): string {
  if (value === null || value === undefined) {
    return '';
  }
  return typeof value === 'string' ? value : JSON.stringify(value);
}

export interface IScheduledNotebook {
  readonly path: string;
  /** The document as the user sees it, unsaved edits included. */
  readonly content: PartialJSONObject;
}

export class ScheduleModel implements IDisposable {
  constructor(
    private _client: Client,
    readonly notebook: IScheduledNotebook
  ) {
    const { own, all } = timezones();
    this.zones = all;
    this._when = {
      word: 'Daily',
      time: '06:00',
      weekday: 1,
      day: 1,
      cron: '0 6 * * 1-5',
      timezone: own
    };
    void this._preview();
    void this._checkNow();
  }

  readonly zones: ReadonlyArray<string>;

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get name(): string | null {
    return this._name;
  }

  get when(): IWhen {
    return this._when;
  }

  get schedule(): ISchedulePreview | null {
    return this._schedule;
  }

  get scheduleError(): string | null {
    return this._scheduleError;
  }

  get check(): IJobCheck | null {
    return this._check;
  }

  /** What went wrong with the dialog as a whole. */
  get error(): string | null {
    return this._error;
  }

  get isSending(): boolean {
    return this._isSending;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** The text of a parameter's field. */
  valueOf(field: IFormField): string {
    return this._given.get(field.name) ?? shown(field.default);
  }

  /** What is wrong with a parameter, if something is. */
  problemOf(field: IFormField): string | null {
    const line = this._check?.checked.find(
      each => each.parameter === field.name && each.level === 'error'
    );
    return line?.text ?? null;
  }

  setName(name: string): void {
    this._name = name;
    this._changed.emit();
    void this._checkSoon.invoke().catch(() => undefined);
  }

  setWhen(change: Partial<IWhen>): void {
    if (change.word === 'Cron' && this._when.word !== 'Cron') {
      change = { cron: cronOf(this._when), ...change };
    }
    this._when = { ...this._when, ...change };
    this._changed.emit();
    void this._previewSoon.invoke().catch(() => undefined);
  }

  setValue(field: string, value: string): void {
    this._given.set(field, value);
    this._changed.emit();
    void this._checkSoon.invoke().catch(() => undefined);
  }

  /** Make the job; null means that something stands in the way, and is shown. */
  async send(): Promise<IJobView | null> {
    this._isSending = true;
    this._error = null;
    this._changed.emit();
    try {
      return await this._client.createJob({
        name: this._name ?? this._check?.name ?? '',
        path: this.notebook.path,
        notebook: this.notebook.content,
        cron: cronOf(this._when),
        timezone: this._when.timezone,
        parameters: Object.fromEntries(this._given)
      });
    } catch (error) {
      this._error = sentence(error);
      return null;
    } finally {
      this._isSending = false;
      this._emit();
    }
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._previewSoon.dispose();
      this._checkSoon.dispose();
      Signal.clearData(this);
    }
  }

  private _emit(): void {
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  private async _preview(): Promise<void> {
    const ticket = ++this._previewTicket;
    let schedule: ISchedulePreview | null = null;
    let problem: string | null = null;
    try {
      schedule = await this._client.previewSchedule(cronOf(this._when), this._when.timezone);
    } catch (error) {
      problem = sentence(error);
    }
    if (ticket === this._previewTicket) {
      this._schedule = schedule;
      this._scheduleError = problem;
      this._emit();
    }
  }

  private async _checkNow(): Promise<void> {
    const ticket = ++this._checkTicket;
    try {
      const check = await this._client.checkJob({
        path: this.notebook.path,
        notebook: this.notebook.content,
        name: this._name?.trim() || null,
        parameters: Object.fromEntries(this._given)
      });
      if (ticket === this._checkTicket) {
        this._check = check;
        this._error = null;
      }
    } catch (error) {
      if (ticket === this._checkTicket) {
        this._error = sentence(error);
      }
    }
    this._emit();
  }

  private _changed = new Signal<this, void>(this);
  private _check: IJobCheck | null = null;
  private _checkTicket = 0;
  private _checkSoon = new Debouncer(() => this._checkNow(), 350);
  private _error: string | null = null;
  private _given = new Map<string, string>();
  private _isDisposed = false;
  private _isSending = false;
  private _name: string | null = null;
  private _previewTicket = 0;
  private _previewSoon = new Debouncer(() => this._preview(), 200);
  private _schedule: ISchedulePreview | null = null;
  private _scheduleError: string | null = null;
  private _when: IWhen;
}
