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

/** Ask the server half; a refusal is thrown as a `Refusal`. */
export async function request<T>(
  settings: ServerConnection.ISettings,
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
  path: string,
  query: IQuery = {},
  body?: object
): Promise<T> {
  const given = Object.entries(query)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`)
    .join('&');
  const url = URLExt.join(settings.baseUrl, PREFIX, path) + (given ? `?${given}` : '');
  const response = await ServerConnection.makeRequest(
    url,
    { method, body: body === undefined ? undefined : JSON.stringify(body) },
    settings
  );
  if (response.ok) {
    return (await response.json()) as T;
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
