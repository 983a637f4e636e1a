/**
 * An artifact, as its page shows it: what it is, what it was made of, and what was made of it.
 */

import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { Client, IArtifactName, sentence } from '../api/client';
import type {
  IArtifact,
  IBinding,
  IExecution,
  ILineage,
  ILineageExecution,
  ILineageValue,
  IRun
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
    return this._found(this._made) ?? this._found(this._logged);
  }

  /** Whether it was logged, and not bound to a name. */
  get isLogged(): boolean {
    return this._found(this._made) === null && this._found(this._logged) !== null;
  }

  /** The run whose plain cell logged it; null where a step made it. */
  get run(): IRun | null {
    return this._run;
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
      const { run } = this.artifact;
      const found = run ? (await this._client.run(run, this.path)).run : null;
      const lineage = found
        ? loggedBy(found, this.artifact)
        : await this._client.lineage(this.artifact, this.path);
      if (this._isDisposed) {
        return;
      }
      this._run = found;
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

  private get _made(): ReadonlyArray<IBinding> {
    return this._record?.id === this.value?.execution ? (this._record?.binds ?? []) : [];
  }

  private get _logged(): ReadonlyArray<IBinding> {
    if (this._run) {
      return this._run.artifacts;
    }
    return this._record?.id === this.value?.execution ? (this._record?.artifacts ?? []) : [];
  }

  /** The artifact that is looked at, among some that have names. */
  private _found(bindings: ReadonlyArray<IBinding>): IArtifact | null {
    const { value } = this;
    const named = bindings.filter(each => each.name === value?.name).map(each => each.artifact);
    return named.find(each => each?.digest === value?.digest) ?? null;
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
  private _run: IRun | null = null;
}

/** What is known of an artifact that a plain cell of a run logged: nobody has recorded what such a cell read. */
function loggedBy(run: IRun, { digest, name }: IArtifactName): ILineage {
  const found = run.artifacts.find(
    each => each.artifact?.digest === digest && (!name || each.name === name)
  );
  if (!found?.artifact) {
    throw new Error(`Run ${run.id.slice(0, 4)} has logged another ${name ?? 'artifact'} since.`);
  }
  const { type, size, preview } = found.artifact;
  const text = typeof preview.text === 'string' ? preview.text : null;
  const value = { name: found.name, digest, execution: null, type, size, text, how: 'name' };
  return { values: [value as ILineageValue], executions: [], above: [], below: [], cut: false };
}
