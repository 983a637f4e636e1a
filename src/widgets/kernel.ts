/**
 * What the page says to a kernel, and hears from it besides the outputs of cells.
 */

import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel, KernelMessage } from '@jupyterlab/services';

import type { IMessage } from '../model/outputs';
import type { KernelKind } from '../model/steps';

/** The types of late output. */
const OUTPUTS = new Set([
  'stream',
  'display_data',
  'execute_result',
  'update_display_data',
  'clear_output',
  'error'
]);

/** Whose output a late message is. */
export interface ILate {
  readonly execution: string;
  readonly cell: string;
  readonly message: IMessage;
}

/** What a kernel answers: whether it knows mlbench, and whether it has run no cell yet. */
export interface IGreeting {
  readonly kind: KernelKind;
  readonly isFresh: boolean;
}

/**
 * Tell a kernel that this page shows late output, and ask what it knows of mlbench.
 *
 * It is sent as soon as there is a connection to wait in, so that it goes before the cells that are run at once.
 */
export async function greet(
  kernel: Kernel.IKernelConnection,
  notebookId: string | null
): Promise<IGreeting> {
  const page = JSON.stringify(kernel.clientId);
  const code = [
    'get_ipython().__dict__.setdefault("mlbench_pages", set()).add(' + page + ')',
    'get_ipython().__dict__["mlbench_notebook_id"] = ' +
      (notebookId === null ? 'None' : JSON.stringify(notebookId))
  ].join('\n');
  const future = kernel.requestExecute({
    code,
    silent: true,
    store_history: false,
    stop_on_error: false,
    user_expressions: {
      has: '__import__("importlib.util").util.find_spec("mlbench") is not None',
      loaded: '"mlbench" in get_ipython().extension_manager.loaded',
      fresh: 'get_ipython().execution_count == 1'
    }
  });
  const reply = await future.done;
  if (!reply || reply.content.status !== 'ok') {
    return { kind: 'other', isFresh: false };
  }
  const said = (name: string): string => {
    const expression = (reply.content as KernelMessage.IExecuteReply).user_expressions?.[name] as
      { data?: { 'text/plain'?: string } } | undefined;
    return expression?.data?.['text/plain'] ?? '';
  };
  const isFresh = said('fresh') === 'True';
  if (said('loaded') === 'True') {
    return { kind: 'loaded', isFresh };
  }
  const kind = { True: 'not-loaded', False: 'lacks-mlbench' } as const;
  return { kind: kind[said('has') as 'True' | 'False'] ?? 'other', isFresh };
}

/** Read a message as late output of a step, if it is that: one with a header of mlbench's own for a parent. */
export function lateOutput(message: KernelMessage.IMessage): ILate | null {
  const about = message.metadata.mlbench as
    { readonly execution?: unknown; readonly cell?: unknown } | undefined;
  const parent = message.parent_header as { readonly session?: string };
  if (!about || parent.session !== 'mlbench' || !OUTPUTS.has(message.header.msg_type)) {
    return null;
  }
  if (typeof about.execution !== 'string' || typeof about.cell !== 'string') {
    return null;
  }
  return {
    execution: about.execution,
    cell: about.cell,
    message: { ...message.content, output_type: message.header.msg_type } as IMessage
  };
}

/** Read what a kernel says of its wait: the execution, null for the end of one, undefined for another message. */
export function waitsFor(message: KernelMessage.IMessage): string | null | undefined {
  if ((message.header.msg_type as string) !== 'mlbench') {
    return undefined;
  }
  const content = message.content as { readonly waits_for?: unknown };
  if (!('waits_for' in content)) {
    return undefined;
  }
  return typeof content.waits_for === 'string' ? content.waits_for : null;
}

/** Whether a session's kernel may be Python, as far as is known before it answers. */
export function mayBePython(session: ISessionContext): boolean {
  const language = session.kernelPreference.language?.toLowerCase();
  return !language || language === 'python';
}
