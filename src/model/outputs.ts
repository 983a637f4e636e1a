/**
 * Output that arrives after its cell has returned, put where the cell's own output is.
 */

import * as nbformat from '@jupyterlab/nbformat';
import { JSONExt, PartialJSONObject } from '@lumino/coreutils';

/** What is needed of a cell's output area model. */
export interface IOutputList {
  readonly length: number;
  add(output: nbformat.IOutput): number;
  set(index: number, output: nbformat.IOutput): void;
  clear(wait?: boolean): void;
}

/** A kernel's message, or a stored output: nbformat's, and `update_display_data` and `clear_output`. */
export interface IMessage extends PartialJSONObject {
  output_type: string;
}

/** The late output of one execution of one cell. */
export class LateOutput {
  /**
   * @param execution - whose output it is.
   * @param list - the outputs of its cell.
   * @param prompt - the number at the cell's prompt, which a result carries too.
   */
  constructor(
    readonly execution: string,
    private _list: IOutputList,
    private _prompt: number | null = null
  ) {}

  /** Apply a message as the notebook would have while the cell ran. */
  apply(message: IMessage): void {
    const { transient, ...rest } = message;
    switch (message.output_type) {
      case 'clear_output':
        this._clearNext = message.wait === true;
        if (!this._clearNext) {
          this._clear();
        }
        return;
      case 'update_display_data':
        this._update(displayId(transient), { ...rest, output_type: 'display_data' });
        return;
      case 'stream':
      case 'error':
      case 'display_data':
      case 'execute_result': {
        if (this._clearNext) {
          this._clear();
        }
        if (message.output_type === 'execute_result') {
          rest.execution_count = this._prompt;
        }
        const length = this._list.add(rest as nbformat.IOutput);
        const id = displayId(transient);
        if (id !== null && message.output_type !== 'stream') {
          this._places.set(id, [...(this._places.get(id) ?? []), length - 1]);
        }
        return;
      }
      default:
        return;
    }
  }

  /** Replace what the cell shows by all of an execution's messages. */
  fill(messages: ReadonlyArray<PartialJSONObject>): void {
    this._clear();
    for (const message of messages) {
      this.apply(message as IMessage);
    }
  }

  private _clear(): void {
    this._clearNext = false;
    this._places.clear();
    this._list.clear();
  }

  private _update(id: string | null, output: PartialJSONObject): void {
    for (const index of (id === null ? undefined : this._places.get(id)) ?? []) {
      if (index < this._list.length) {
        this._list.set(index, output as nbformat.IOutput);
      }
    }
  }

  private _clearNext = false;
  private _places = new Map<string, number[]>();
}

/** Say whether a cell shows these messages already, so that nothing is written (and no notebook becomes dirty). */
export function sameOutputs(
  shown: ReadonlyArray<nbformat.IOutput>,
  messages: ReadonlyArray<PartialJSONObject>
): boolean {
  return JSONExt.deepEqual(shown.map(plain), merged(messages).map(plain));
}

/** Merge neighbouring pieces of one stream, as an output area does. */
export function merged(messages: ReadonlyArray<PartialJSONObject>): PartialJSONObject[] {
  const result: PartialJSONObject[] = [];
  for (const message of messages) {
    const last = result[result.length - 1];
    if (
      message.output_type === 'stream' &&
      last?.output_type === 'stream' &&
      last.name === message.name
    ) {
      result[result.length - 1] = { ...last, text: textOf(last.text) + textOf(message.text) };
    } else {
      result.push(message);
    }
  }
  return result;
}

function plain(output: PartialJSONObject): PartialJSONObject {
  const { transient, execution_count, metadata, ...rest } = output;
  return rest.output_type === 'stream' ? { ...rest, text: redrawn(textOf(rest.text)) } : rest;
}

/** What is left of a text in which lines were drawn over by carriage returns. */
function redrawn(text: string): string {
  return text
    .split('\n')
    .map(line => {
      const parts = line.split('\r');
      return parts.reduce((drawn, part) => part + drawn.slice(part.length), '');
    })
    .join('\n');
}

function textOf(text: unknown): string {
  return Array.isArray(text) ? text.join('') : typeof text === 'string' ? text : '';
}

function displayId(transient: unknown): string | null {
  const id = (transient as { display_id?: unknown } | undefined)?.display_id;
  return typeof id === 'string' ? id : null;
}
