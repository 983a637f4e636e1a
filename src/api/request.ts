/**
 * The one place that fetches: JSON in, JSON out, and an error that says what to do.
 */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import type { IProblem } from './schema';

export const PREFIX = 'mlbench/api/v1';

/** What the server refused, in its own sentence. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly problem: IProblem
  ) {
    super(problem.remedy ? `${problem.message} ${problem.remedy}` : problem.message);
    this.name = problem.type;
  }
}

/** Say an error as one line for people. */
export function sentence(error: unknown): string {
  if (error instanceof ServerConnection.NetworkError) {
    return 'The Jupyter server does not answer. This page tries again by itself.';
  }
  return error instanceof Error ? error.message : String(error);
}

export interface IQuery {
  readonly [name: string]: string | number | null | undefined;
}

type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE';

/** The address of what the server half has. */
export function address(
  settings: ServerConnection.ISettings,
  path: string,
  query: IQuery = {}
): string {
  const given = Object.entries(query)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`)
    .join('&');
  return URLExt.join(settings.baseUrl, PREFIX, path) + (given ? `?${given}` : '');
}

/** Ask the server half; a refusal is thrown as a `Refusal`. */
export async function request<T>(
  settings: ServerConnection.ISettings,
  method: Method,
  path: string,
  query: IQuery = {},
  body?: object
): Promise<T> {
  return (await (await answer(settings, method, path, query, body)).json()) as T;
}

/** Ask the server half for bytes. */
export async function requestBytes(
  settings: ServerConnection.ISettings,
  path: string,
  query: IQuery = {}
): Promise<Uint8Array> {
  return new Uint8Array(await (await answer(settings, 'GET', path, query)).arrayBuffer());
}

async function answer(
  settings: ServerConnection.ISettings,
  method: Method,
  path: string,
  query: IQuery,
  body?: object
): Promise<Response> {
  const response = await ServerConnection.makeRequest(
    address(settings, path, query),
    { method, body: body === undefined ? undefined : JSON.stringify(body) },
    settings
  );
  if (response.ok) {
    return response;
  }
  throw new Refusal(response.status, await problemOf(response));
}

async function problemOf(response: Response): Promise<IProblem> {
  const none: IProblem = {
    message:
      response.status === 404
        ? 'This Jupyter server does not have the server half of mlbench.'
        : `The Jupyter server answered ${response.status} ${response.statusText}.`,
    remedy:
      response.status === 404 ? "Install mlbench where JupyterLab runs: its extra 'lab'." : null,
    type: 'HTTPError',
    place: null
  };
  try {
    const found = (await response.json()) as Partial<IProblem>;
    return found.message && found.type ? { ...none, remedy: null, ...found } : none;
  } catch {
    return none;
  }
}
