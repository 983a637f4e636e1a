/**
 * What artifacts hold beside their previews: files, the files of folders, pictures. Nothing of it is ever run.
 */

import type { Client } from '../api/client';
import type { IFileList } from '../api/schema';

/** Bytes of a file up to which it is looked into for a picture, and for text. */
const LARGEST_PICTURE = 4e6;
const LARGEST_TEXT = 256e3;
/** Lines and characters of a line that are shown of a text. */
const LINES = 200;
const LONGEST_LINE = 500;
/** Rows and columns that are shown of a table. */
const ROWS = 20;
const COLUMNS = 30;

/** What is shown of a file. */
export type Look =
  | { readonly kind: 'picture'; readonly url: string }
  | { readonly kind: 'text'; readonly text: string; readonly isCut: boolean }
  | {
      readonly kind: 'table';
      readonly head: ReadonlyArray<string>;
      readonly rows: ReadonlyArray<ReadonlyArray<string>>;
      readonly isCut: boolean;
    }
  | { readonly kind: 'nothing' };

/** What a view asks for when it is in sight. */
export interface IContents {
  /** Where the browser gets a file as a download, under a name. */
  downloadUrl(digest: string, name: string): string;
  /** Where the browser gets a picture that was made of a value. */
  pictureUrl(digest: string): string;
  files(digest: string): Promise<IFileList>;
  look(digest: string, name: string): Promise<Look>;
}

const NOTHING: Look = { kind: 'nothing' };

export class Contents implements IContents {
  constructor(
    private _client: Client,
    readonly path: string | null
  ) {}

  downloadUrl(digest: string, name: string): string {
    return this._client.contentUrl(digest, lastOf(name), this.path);
  }

  pictureUrl(digest: string): string {
    return this._client.pictureUrl(digest, this.path);
  }

  files(digest: string): Promise<IFileList> {
    return once(this._files, digest, () => this._client.files(digest, this.path));
  }

  look(digest: string, name: string): Promise<Look> {
    return once(this._looks, `${digest} ${lastOf(name)}`, async () =>
      lookAt(await this._client.content(digest, this.path), name)
    );
  }

  private _files = new Map<string, Promise<IFileList>>();
  private _looks = new Map<string, Promise<Look>>();
}

/** Ask once; what could not be had may be asked for again. */
function once<T>(known: Map<string, Promise<T>>, key: string, ask: () => Promise<T>): Promise<T> {
  const found = known.get(key);
  if (found) {
    return found;
  }
  const asked = ask();
  known.set(key, asked);
  asked.catch(() => known.delete(key));
  return asked;
}

/** Whether a file is a picture that can be shown, as far as its name and its size tell. */
export function isPicture(name: string, size: number): boolean {
  return size > 0 && size <= LARGEST_PICTURE && /\.(png|jpe?g|gif|webp|svg)$/i.test(name);
}

/** Whether a file is worth being asked for, to be shown: as a picture, or as a text if it is one. */
export function isShowable(name: string, size: number): boolean {
  return isPicture(name, size) || (size > 0 && size <= LARGEST_TEXT);
}

/** What a file is to be called beside its size: `PNG picture`, `CSV table`, `file`. */
export function fileKind(name: string): string {
  const ending = /\.([a-z0-9]{1,8})$/i.exec(name)?.[1].toLowerCase() ?? '';
  const known = Object.entries(KINDS).find(([, endings]) => endings.split(' ').includes(ending));
  return known ? known[0].replace('…', ending.toUpperCase()) : ending ? `${ending} file` : 'file';
}

/** Kinds of files, each with how their names end, which stands in the place of an ellipsis. */
const KINDS: { readonly [kind: string]: string } = {
  '… picture': 'png jpg jpeg gif webp svg',
  '… table': 'csv tsv xlsx',
  'Parquet table': 'parquet',
  '… page': 'html',
  '… archive': 'zip tar gz',
  '… document': 'pdf',
  Markdown: 'md',
  JSON: 'json',
  YAML: 'yml yaml',
  text: 'txt',
  log: 'log',
  'Python code': 'py',
  notebook: 'ipynb',
  pickle: 'pkl pickle',
  'NumPy array': 'npy npz'
};

/**
 * Say what can be shown of a file: what its first bytes are counts, not what it is called.
 *
 * A picture's address holds all of it, so that one that is opened by itself belongs to no site, and a script in a
 * drawing has nothing that it could reach.
 */
export function lookAt(bytes: Uint8Array, name: string): Look {
  const type = pictureType(bytes);
  if (type !== null) {
    return bytes.length <= LARGEST_PICTURE
      ? { kind: 'picture', url: dataUrl(type, bytes) }
      : NOTHING;
  }
  if (bytes.length > LARGEST_PICTURE || (!/\.svg$/i.test(name) && bytes.length > LARGEST_TEXT)) {
    return NOTHING;
  }
  const text = textOf(bytes);
  if (text === null || !text.trim()) {
    return NOTHING;
  }
  if (/\.svg$/i.test(name) && /<svg[\s>]/i.test(text)) {
    return { kind: 'picture', url: dataUrl('image/svg+xml', bytes) };
  }
  if (/\.[ct]sv$/i.test(name)) {
    return tableOf(text, /\.tsv$/i.test(name) ? '\t' : separatorOf(text));
  }
  const lines = text.replace(/\n$/, '').split('\n');
  return {
    kind: 'text',
    text: lines
      .slice(0, LINES)
      .map(line => (line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)}…` : line))
      .join('\n'),
    isCut: lines.length > LINES || lines.some(line => line.length > LONGEST_LINE)
  };
}

function pictureType(bytes: Uint8Array): string | null {
  const begins = (text: string, at = 0) =>
    [...text].every((sign, place) => bytes[at + place] === sign.charCodeAt(0));
  if (begins('\x89PNG\r\n\x1a\n')) {
    return 'image/png';
  }
  if (begins('\xff\xd8\xff')) {
    return 'image/jpeg';
  }
  if (begins('GIF87a') || begins('GIF89a')) {
    return 'image/gif';
  }
  return begins('RIFF') && begins('WEBP', 8) ? 'image/webp' : null;
}

function dataUrl(type: string, bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return `data:${type};base64,${btoa(text)}`;
}

/** Bytes as text; null where they are none. */
function textOf(bytes: Uint8Array): string | null {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return /[\x00-\x08\x0e-\x1a\x1c-\x1f]/.test(text) ? null : text.replace(/\r\n?/g, '\n');
  } catch {
    return null;
  }
}

/** What stands between the values of a table's first line: whichever is there most often. */
function separatorOf(text: string): string {
  const [first] = text.split('\n', 1);
  const often = (sign: string) => first.split(sign).length;
  return [',', ';', '\t'].sort((one, other) => often(other) - often(one))[0];
}

/** The first rows of a text of values, in which what stands in quotes may hold anything. */
export function tableOf(text: string, separator: string): Look {
  const rows: string[][] = [];
  let row: string[] = [];
  let value = '';
  let isQuoted = false;
  let at = 0;
  const endRow = () => {
    if (row.length || value) {
      rows.push([...row, value]);
    }
    [row, value] = [[], ''];
  };
  for (; at < text.length && rows.length <= ROWS; at += 1) {
    const sign = text[at];
    if (isQuoted) {
      if (sign !== '"') {
        value += sign;
      } else if (text[at + 1] === '"') {
        value += sign;
        at += 1;
      } else {
        isQuoted = false;
      }
    } else if (sign === '"' && !value) {
      isQuoted = true;
    } else if (sign === separator) {
      row.push(value);
      value = '';
    } else if (sign === '\n') {
      endRow();
    } else {
      value += sign;
    }
  }
  endRow();
  const shown = rows.map(each => each.slice(0, COLUMNS));
  return {
    kind: 'table',
    head: shown[0] ?? [],
    rows: shown.slice(1, ROWS + 1),
    isCut: Boolean(text.slice(at).trim()) || rows.some(each => each.length > COLUMNS)
  };
}

/** The last part of a path. */
export function lastOf(path: string): string {
  return path.split('/').pop() || path;
}
