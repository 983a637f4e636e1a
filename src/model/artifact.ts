/**
 * An artifact, as its page shows it: what it is, what it was made of, and what was made of it.
 */

import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, IArtifactName, sentence } from '../api/client';
import type {
  IArtifact,
  IExecution,
  ILineage,
  ILineageExecution,
  ILineageValue
} from '../api/schema';

export class ArtifactModel implements IDisposable {
  constructor(
    readonly artifact: IArtifactName,
    readonly path: string | null,
    private _client: Client
  ) {
    void this.refresh();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Null before the first answer. */
  get lineage(): ILineage | null {
    return this._lineage;
  }

  get error(): string | null {
    return this._error;
  }

  /** The value that is looked at, of those that are this artifact. */
  get value(): ILineageValue | null {
    return this._lineage?.values[this._at] ?? null;
  }

  /** Who made it, as far as that is known. */
  get maker(): ILineageExecution | null {
    const { value } = this;
    return this._lineage?.executions.find(each => each.id === value?.execution) ?? null;
  }

  /** What is shown of it, once its maker's record has come. */
  get shown(): IArtifact | null {
    const { value } = this;
    const bound = this._record?.id === value?.execution ? this._record?.binds : undefined;
    return bound?.find(each => each.name === value?.name)?.artifact ?? null;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Look at another one of the values that are this artifact. */
  look(at: number): void {
    this._at = at;
    this._changed.emit();
    void this._loadRecord();
  }

  async refresh(): Promise<void> {
    try {
      const lineage = await this._client.lineage(this.artifact, this.path);
      if (this._isDisposed) {
        return;
      }
      this._lineage = lineage;
      this._error = null;
    } catch (error) {
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
      await this._loadRecord();
    }
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      Signal.clearData(this);
    }
  }

  private async _loadRecord(): Promise<void> {
    const id = this.value?.execution ?? null;
    if (id === null || this._record?.id === id) {
      return;
    }
    try {
      const record = await this._client.execution(id, this.path);
      if (this._isDisposed || id !== this.value?.execution) {
        return;
      }
      this._record = record;
    } catch (error) {
      this._error = sentence(error);
    }
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  private _at = 0;
  private _changed = new Signal<this, void>(this);
  private _error: string | null = null;
  private _isDisposed = false;
  private _lineage: ILineage | null = null;
  private _record: IExecution | null = null;
}
