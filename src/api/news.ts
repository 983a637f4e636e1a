/**
 * The websocket that brings news, and its way back after a loss: it asks for what came since the last number seen.
 */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { DisposableDelegate, IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { PREFIX } from './request';
import type { INews } from './schema';

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15000;

export class NewsFeed implements IDisposable {
  constructor(private _settings: ServerConnection.ISettings = ServerConnection.makeSettings()) {}

  /** Emitted with each piece of news; `reset` and `changed` mean: ask again for what is shown. */
  get arrived(): ISignal<this, INews> {
    return this._arrived;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Connect, and stay connected. */
  start(): void {
    if (this._socket || this._isDisposed) {
      return;
    }
    const { wsUrl, token, appendToken, WebSocket } = this._settings;
    const query = new URLSearchParams();
    if (this._seq !== null && this._life !== null) {
      query.set('from', String(this._seq));
      query.set('life', this._life);
    }
    if (appendToken && token) {
      query.set('token', token);
    }
    const socket = new WebSocket(`${URLExt.join(wsUrl, PREFIX, 'events')}?${query}`);
    this._socket = socket;
    socket.onopen = () => {
      this._wait = FIRST_WAIT;
      this._tellWatched();
      if (this._wasLost) {
        this._arrived.emit({ ...NOTHING, type: 'changed' });
      }
      this._wasLost = false;
    };
    socket.onmessage = event => this._read(String(event.data));
    socket.onclose = () => {
      if (this._socket !== socket) {
        return;
      }
      this._socket = null;
      this._wasLost = true;
      this._timer = window.setTimeout(() => this.start(), this._wait);
      this._wait = Math.min(this._wait * 2, LONGEST_WAIT);
    };
  }

  /** Ask for the messages of an execution until what is returned is disposed of. */
  watch(execution: string): IDisposable {
    this._watched.set(execution, (this._watched.get(execution) ?? 0) + 1);
    this._tellWatched();
    return new DisposableDelegate(() => {
      const left = (this._watched.get(execution) ?? 1) - 1;
      if (left) {
        this._watched.set(execution, left);
      } else {
        this._watched.delete(execution);
      }
      this._tellWatched();
    });
  }

  dispose(): void {
    this._isDisposed = true;
    window.clearTimeout(this._timer);
    const socket = this._socket;
    this._socket = null;
    socket?.close();
    Signal.clearData(this);
  }

  private _tellWatched(): void {
    if (this._socket?.readyState === 1) {
      this._socket.send(JSON.stringify({ watch: [...this._watched.keys()] }));
    }
  }

  private _read(text: string): void {
    const news = JSON.parse(text) as INews;
    if (news.seq !== null) {
      this._seq = news.seq;
      this._life = news.life;
    }
    this._arrived.emit(news);
  }

  private _arrived = new Signal<this, INews>(this);
  private _isDisposed = false;
  private _life: string | null = null;
  private _seq: number | null = null;
  private _socket: WebSocket | null = null;
  private _timer = 0;
  private _wait = FIRST_WAIT;
  private _wasLost = false;
  private _watched = new Map<string, number>();
}

const NOTHING: Omit<INews, 'type'> = {
  seq: null,
  life: null,
  run: null,
  kernel: null,
  path: null,
  body: {}
};
